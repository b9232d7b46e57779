"""Answers of providers as they really come: lenient in form, strict in use (security.md R12)."""

from __future__ import annotations

import gzip
import zlib
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fuzz import fuzz

from cab.protocol import token_responses
from cab.protocol.token_responses import TokenError, Tokens

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SECONDS = int(NOW.timestamp())


def parsed(**members: Any) -> Tokens:
    found = token_responses.parse(orjson.dumps({"access_token": "a", "token_type": "Bearer"} | members))
    assert isinstance(found, Tokens)
    return found


@pytest.mark.requirement("RFC6749-5.1-1")
def test_a_complete_answer_is_read() -> None:
    found = parsed(refresh_token="r", scope="a b", expires_in=3600, instance_url="https://x.test")
    assert (found.access_token, found.refresh_token, found.scopes) == ("a", "r", ("a", "b"))
    assert found.expires_in == timedelta(hours=1)
    assert found.members["instance_url"] == "https://x.test"


def test_form_encoded_answers_are_read_too() -> None:
    found = token_responses.parse(b"access_token=gho_16C7e&scope=repo%2Cgist&token_type=bearer")
    assert isinstance(found, Tokens)
    assert (found.access_token, found.scopes) == ("gho_16C7e", ("repo", "gist"))


NOT_TOKENS: list[tuple[bytes, str]] = [
    (b"", "unparsable"),
    (b"<html>502</html>", "unparsable"),
    (b"null", "unparsable"),
    (b"[]", "unparsable"),
    (b"{}", "unparsable"),
    (b'{"access_token":""}', "unparsable"),
    (b'{"access_token":7}', "unparsable"),
    (b'{"access_token":null}', "unparsable"),
    (b'{"access_token":["a"]}', "unparsable"),
    (b'{"access_token":"a b"}', "unparsable"),
    (b'{"access_token":"a\\nb"}', "unparsable"),
    ('{"access_token":"é"}'.encode(), "unparsable"),
    (orjson.dumps({"access_token": "a" * 16_385}), "unparsable"),
    (b'{"access_token":"a","access_token":"b"}', "unparsable"),
    (b"access_token=a&access_token=b", "unparsable"),
    (b"access_token", "unparsable"),
    (b"\xff\xfe", "unparsable"),
    (b'{"error":"invalid_grant"}', "invalid_grant"),
    (b'{"error":"invalid_grant","access_token":"a"}', "invalid_grant"),
    (b'{"error":{"message":"no"},"access_token":"a"}', "unparsable"),
    (b'{"ok":false,"error":"token_expired"}', "token_expired"),
    (b'{"ok":false,"access_token":"a"}', "unparsable"),
    (b"error=bad_refresh_token&error_description=x", "bad_refresh_token"),
    (b'{"error":{"code":401}}', "unparsable"),
    (orjson.dumps({"error": "e" * 65}), "unparsable"),
    ('{"error":"é"}'.encode(), "unparsable"),
]


@pytest.mark.parametrize(("body", "code"), NOT_TOKENS, ids=lambda part: repr(part)[:40])
def test_what_does_not_clearly_hold_a_token_is_an_error(body: bytes, code: str) -> None:
    found = token_responses.parse(body)
    assert isinstance(found, TokenError)
    assert found.code == code


ANSWER: dict[str, Any] = {
    "access_token": "A2",
    "token_type": "Bearer",
    "expires_in": 3600,
    "refresh_token": "R2",
    "user": "Zo\u00eb",
}
AS_TEXT = '{"access_token":"A2","token_type":"Bearer","expires_in":3600,"refresh_token":"R2","user":"Zo\u00eb"}'
ODD_BUT_READABLE: dict[str, bytes] = {
    "byte order mark": b"\xef\xbb\xbf" + AS_TEXT.encode(),
    "blanks and line ends around it": b" \r\n\t" + AS_TEXT.encode() + b"\n\n",
    "UTF-16 with byte order mark": AS_TEXT.encode("utf-16"),
    "UTF-16, little end first": AS_TEXT.encode("utf-16-le"),
    "UTF-16, big end first": AS_TEXT.encode("utf-16-be"),
    "Latin-1": AS_TEXT.encode("latin-1"),
    "gzip": gzip.compress(AS_TEXT.encode()),
    "gzip of UTF-16": gzip.compress(AS_TEXT.encode("utf-16")),
    "deflate": zlib.compress(AS_TEXT.encode()),
    "deflate, hardly": zlib.compress(AS_TEXT.encode(), level=1),
    "empty error": orjson.dumps(ANSWER | {"error": "", "error_description": ""}),
    "error that is null": orjson.dumps(ANSWER | {"error": None}),
    "error that is false": orjson.dumps(ANSWER | {"error": False}),
    "error that is an empty object": orjson.dumps(ANSWER | {"error": {}}),
    "a member repeated": AS_TEXT.replace("}", ',"token_type":"bearer"}').encode(),
    "a token repeated alike": AS_TEXT.replace("}", ',"access_token":"A2"}').encode(),
    "nothing, and then a token": AS_TEXT.replace("{", '{"refresh_token":null,"access_token":"",').encode(),
    "a token, and then nothing": AS_TEXT.replace("}", ',"refresh_token":null,"error":"","error":null}').encode(),
    "an unknown number": AS_TEXT.replace("}", ',"x":NaN}').encode(),
    "a lone surrogate elsewhere": AS_TEXT.replace("Zo\u00eb", "\\ud800").encode(),
    "UTF-16, big end first, a sign that forms use": AS_TEXT.replace("Zo\u00eb", "a=b").encode("utf-16-be"),
    "UTF-32 with byte order mark": AS_TEXT.encode("utf-32"),
    "UTF-32, big end first": AS_TEXT.encode("utf-32-be"),
    "deflate without a header": zlib.compress(AS_TEXT.encode())[2:-4],
    "a line end inside a text": AS_TEXT.replace("Zo\u00eb", "a\nb").encode(),
    "blanks around the tokens": AS_TEXT.replace('"A2"', '" A2"').replace('"R2"', '"R2\\n"').encode(),
    "seconds as text with a point": AS_TEXT.replace("3600", '"3600.0"').encode(),
    "seconds as text with blanks": AS_TEXT.replace("3600", '" 3600 "').encode(),
    "half a character among the scopes": AS_TEXT.replace("}", ',"scope":"a \\ud800"}').encode(),
    "error that is zero": orjson.dumps(ANSWER | {"error": 0}),
    "a form in Latin-1": "access_token=A2&expires_in=3600&refresh_token=R2&user=Zo\u00eb".encode("latin-1"),
    "a form with a byte order mark": b"\xef\xbb\xbfaccess_token=A2&expires_in=3600&refresh_token=R2",
    "a form with empty members": b"error=&access_token=A2&expires_in=3600&refresh_token=R2&scope=&flag",
    "a form": b"access_token=A2&token_type=bearer&expires_in=3600&refresh_token=R2",
    "a form with a line end": b"access_token=A2&token_type=bearer&expires_in=3600&refresh_token=R2\n",
    "a form that repeats": b"access_token=A2&x=1&x=2&expires_in=3600&refresh_token=R2",
}


@pytest.mark.parametrize("body", ODD_BUT_READABLE.values(), ids=ODD_BUT_READABLE.keys())
def test_an_answer_that_somebody_can_read_is_read(body: bytes) -> None:
    found = token_responses.parse(body)
    assert isinstance(found, Tokens)
    assert (found.access_token, found.refresh_token, found.expires_in) == ("A2", "R2", timedelta(hours=1))


@pytest.mark.parametrize(("depth", "is_read"), [(19, True), (25, False)])
def test_an_answer_is_as_deep_as_answers_are(depth: int, is_read: bool) -> None:
    inner = b'{"x":' * depth + b"1" + b"}" * depth
    found = token_responses.parse(b'{"access_token":"a","x":' + inner + b"}")
    assert isinstance(found, Tokens) is is_read


@pytest.mark.parametrize(("objects", "is_read"), [(998, True), (999, False)])
def test_an_answer_is_as_large_a_tree_as_answers_are(objects: int, is_read: bool) -> None:
    found = token_responses.parse(b'{"access_token":"a","x":[' + b",".join([b"{}"] * objects) + b"]}")
    assert isinstance(found, Tokens) is is_read


def test_a_token_may_be_of_every_visible_character() -> None:
    every = "".join(map(chr, range(33, 127)))
    found = token_responses.parse(orjson.dumps({"access_token": every, "refresh_token": every}))
    assert isinstance(found, Tokens)
    assert (found.access_token, found.refresh_token) == (every, every)


def test_tokens_of_sixteen_kilobytes_are_read() -> None:
    long = "a" * 16_384
    body = orjson.dumps({"access_token": long, "refresh_token": long, "expires_in": 3600, "scope": "s" * 4000})
    assert len(body) <= token_responses.MAX_RESPONSE_BYTES
    found = token_responses.parse(body)
    assert isinstance(found, Tokens)
    assert (found.access_token, found.refresh_token) == (long, long)


def test_a_small_answer_that_unpacks_into_a_large_one_is_not_unpacked() -> None:
    bomb = gzip.compress(b'{"access_token":"A2","x":"' + b"x" * 10_000_000 + b'"}')
    assert len(bomb) < token_responses.MAX_RESPONSE_BYTES
    assert isinstance(token_responses.parse(bomb), TokenError)


UNREADABLE_TODAY: dict[str, bytes] = {
    "two different tokens": b'{"access_token":"a","access_token":"b"}',
    "a token of another type": b'{"access_token":{"value":"a"}}',
    "a token too long": orjson.dumps({"access_token": "a" * 16_385}),
    "another notation": b"<tokens><access_token>a</access_token></tokens>",
    "another notation with a declaration": b'<?xml version="1.0"?><!-- --><OAuth><access_token>a</access_token></OAuth>',
    "cut off": AS_TEXT.encode()[:-2],
    "packed as nobody here can unpack": b"\x0b\x02\x80\x00\x01abc\x03",
    "a comma too many, and a sign that forms use": AS_TEXT.replace('A2"', 'A2="').replace("}", ",}").encode(),
    "a guard in front": b")]}',\n" + AS_TEXT.replace("R2", "R2=").encode(),
    "two different tokens with a sign that forms use": b'{"access_token":"a=","access_token":"b="}',
    "other names": b'{"accessToken":"a","refreshToken":"r"}',
    "tokens further inside": b'{"data":[{"access_token":"a"}]}',
    "tokens beside an error": b'{"error":"partial_success","access_token":"a","refresh_token":"r"}',
    "only a refresh token": b'{"access_token":null,"refresh_token":"r"}',
    "a number for a token": b'{"access_token":7}',
    "gzip cut off": gzip.compress(AS_TEXT.encode())[:-9],
    "packed by something else": b"abc\x0exyz",
    "packed by something else still": b"abc\x1fxyz",
    "packed, all small": b"abc\x08xyz",
}
HOLDS_NONE: dict[str, bytes] = {
    "a page with every blank there is": b"Please\tlog\x0bin\x0cagain\r\n",
    "nothing": b"",
    "blanks": b" \n",
    "a page that speaks of tokens": b"<!DOCTYPE html><script>let accessToken = 1</script>",
    "a page with a byte order mark": b"\xef\xbb\xbf<!DOCTYPE html><script>let access_token</script>",
    "a page in UTF-16": "<!DOCTYPE html><script>let access_token</script>".encode("utf-16"),
    "a page behind comments": b"<!-- 1 --> <!-- access_token -->\n<html>Back soon</html>",
    "a page for old browsers": b'<!--[if IE 7]> <html class="ie7"> <![endif]--><head><script>let access_token</script>',
    "a page of XHTML": b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0"><p>access_token</p>',
    "a page without its first tags": b"<head><script>let refresh_token</script>",
    "a packed page": gzip.compress(b"<html>Back soon</html>"),
    "an error that speaks of tokens": b'{"error":"x","error_description":"refresh_token is gone"}',
    "tokens that are none": b'{"access_token":"","refresh_token":null,"id_token":false}',
    "a page": b"<html><body>Please log in</body></html>",
    "an error": b'{"error":"invalid_grant"}',
    "another object": b'{"ok":true}',
}


@pytest.mark.parametrize("body", UNREADABLE_TODAY.values(), ids=UNREADABLE_TODAY.keys())
def test_what_cannot_be_read_and_may_hold_tokens_says_so(body: bytes) -> None:
    found = token_responses.parse(body)
    assert isinstance(found, TokenError)
    assert found.may_hold_tokens


@pytest.mark.parametrize("body", HOLDS_NONE.values(), ids=HOLDS_NONE.keys())
def test_what_holds_no_tokens_says_so_too(body: bytes) -> None:
    found = token_responses.parse(body)
    assert isinstance(found, TokenError)
    assert not found.may_hold_tokens


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"error": "invalid_grant"}, "invalid_grant"),
        ({"status": "BAD_REFRESH_TOKEN", "message": "missing or invalid refresh token"}, "bad_refresh_token"),
        ({"error": {"code": "invalid_grant", "message": "x"}}, "invalid_grant"),
        ({"error": {"type": "OAuthException", "error": {"code": "expired_token"}}}, "expired_token"),
        ({"errorCode": "invalid_refresh_token"}, "invalid_refresh_token"),
        ({"code": "token_revoked", "message": "gone"}, "token_revoked"),
        ({"message": "invalid_grant"}, "invalid_grant"),
        ({"errors": [{"errorType": "invalid_grant", "message": "x"}], "success": False}, "invalid_grant"),
    ],
)
def test_a_code_is_found_wherever_providers_put_it(members: dict[str, Any], code: str) -> None:
    found = token_responses.parse(orjson.dumps(members))
    assert isinstance(found, TokenError)
    assert code in found.codes


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (3600, 3600),
        ("3600", 3600),
        (3600.9, 3600),
        (34_560_000, 34_560_000),
        (0, None),
        (-1, None),
        (True, None),
        (1e12, None),
        (34_560_001, None),
        ("soon", None),
        ("-5", None),
        ("3600.5", 3600),
        (" 60\n", 60),
        ("1e3", None),
        ("3600s", None),
        ("²", None),
        ("9" * 13, None),
        (None, None),
        ([3600], None),
    ],
)
def test_an_absurd_lifetime_counts_as_not_said(value: Any, seconds: int | None) -> None:
    assert parsed(expires_in=value).expires_in == (None if seconds is None else timedelta(seconds=seconds))


@pytest.mark.parametrize("value", ["Infinity", "-Infinity", "NaN", "1e999", "9" * 5000])
def test_a_lifetime_that_is_no_number_of_seconds_breaks_nothing(value: str) -> None:
    for name in (b"expires_in", b"expires_at"):
        found = token_responses.parse(b'{"access_token":"a","%s":%s}' % (name, value.encode()))
        assert not isinstance(found, Tokens) or (found.expires_in, found.ends_at) == (None, None)


def test_half_a_character_among_the_scopes_can_be_stored() -> None:
    found = token_responses.parse(b'{"access_token":"a","scope":"a b\\ud800"}')
    assert isinstance(found, Tokens)
    assert "".join(found.scopes or ()).encode()


def test_without_a_stated_life_a_refreshable_token_is_given_a_short_one() -> None:
    hour = timedelta(hours=1)
    assert parsed(expires_in=60).expires_at(NOW, default=hour) == NOW + timedelta(seconds=60)
    assert parsed().expires_at(NOW, default=hour) == NOW + hour
    assert parsed(refresh_token="r").expires_at(NOW, default=None) == NOW + timedelta(minutes=10)
    assert parsed().expires_at(NOW, default=None) is None


@pytest.mark.parametrize(
    ("members", "seconds"),
    [
        ({"expires_in": 3_600_000, "expires_in_sec": 3600}, 3600),  # Zoho
        ({"expires": "5183944"}, 5_183_944),
        ({"expires_in": 0, "expires_at": "2026-11-21T12:01:00Z"}, 60),  # Square, and its own zero beside it
        ({"expires_at": "2026-11-21 13:01:00+01:00"}, 60),
        ({"expires_at": "2026-11-21T12:01:00"}, 60),
        ({"expires_on": str(SECONDS + 60)}, 60),
        ({"expires_at": f"{SECONDS + 60}.0"}, 60),
        ({"expires": (SECONDS + 60) * 1000}, 60),
        ({"expires_in": 50, "expires_at": SECONDS + 60}, 50),
        ({"expires_at": SECONDS}, None),
        ({"expires_at": SECONDS + 401 * 86_400}, None),
        ({"expires_at": "2026-11-21"}, None),
        ({"expires_at": 1e300}, None),
        ({"expires_at": "9" * 5000}, None),
        ({"expires_at": "2026-99-21T12:01:00Z"}, None),
        ({"expires_at": True}, None),
        ({"expires_at": {"$date": SECONDS + 60}}, None),
    ],
)
def test_the_end_of_a_token_may_be_said_under_other_names_and_as_an_instant(
    members: dict[str, Any], seconds: int | None
) -> None:
    ends_at = None if seconds is None else NOW + timedelta(seconds=seconds)
    assert parsed(**members).expires_at(NOW, default=None) == ends_at
    kept = token_responses.parse(token_responses.without_the_rest(orjson.dumps({"access_token": "a"} | members)))
    assert isinstance(kept, Tokens)
    assert kept.expires_at(NOW, default=None) == ends_at


@pytest.mark.parametrize("refresh_token", ["", " ", None, False, True, 0, [], {}, "null", "None", "undefined", "N/A"])
def test_a_refresh_token_that_is_none_keeps_the_old_one(refresh_token: Any) -> None:
    found = parsed(refresh_token=refresh_token)
    assert (found.refresh_token, found.refresh_is_unread) == (None, False)


@pytest.mark.parametrize("refresh_token", [7, "a b", "\u00e9", ["r"], {"value": "r"}, "r" * 16_385])
def test_a_refresh_token_that_cannot_be_taken_is_not_mistaken_for_none(refresh_token: Any) -> None:
    found = parsed(refresh_token=refresh_token)
    assert (found.refresh_token, found.refresh_is_unread) == (None, True)


@pytest.mark.parametrize(
    ("scope", "scopes"),
    [
        ("", None),
        (" ", None),
        (None, None),
        ([], None),
        (["a", 1], None),
        ({"a": "b"}, None),
        ("a,b", ("a", "b")),
        ("a a b", ("a", "b")),
        (["a", "b", "a"], ("a", "b")),
    ],
)
def test_scopes_come_in_three_spellings_or_not_at_all(scope: Any, scopes: tuple[str, ...] | None) -> None:
    assert parsed(scope=scope).scopes == scopes


@pytest.mark.parametrize(
    ("members", "stays"),
    [
        (
            {"refresh_token": "r", "scope": "a b", "expires_in": "60", "id_token": "x" * 9_000},
            {"access_token": "a", "refresh_token": "r", "scope": "a b", "expires_in": 60},
        ),
        ({"granted": ["a"], "profile": "x" * 9_000}, {"access_token": "a", "scope": "a"}),
    ],
)
def test_of_an_answer_that_is_read_whole_there_stays_what_was_read(
    members: dict[str, Any], stays: dict[str, Any]
) -> None:
    body = orjson.dumps({"access_token": "a"} | members)
    kept = token_responses.without_the_rest(body, scope_claim="granted")
    assert orjson.loads(kept) == stays


@pytest.mark.parametrize("body", [b"<html>", b'{"error": "x"}', b'{"access_token": "a", "refresh_token": ["r"]}', b""])
def test_an_answer_that_a_later_release_may_read_better_stays_whole(body: bytes) -> None:
    assert token_responses.without_the_rest(body) == body


def test_tokens_never_show_in_a_repr() -> None:
    found = parsed(access_token="canary-access", refresh_token="canary-refresh")
    assert "canary" not in repr(found)


def test_the_words_of_an_error_are_bounded_and_never_show_in_a_repr() -> None:
    for body in (b"canary " * 500, orjson.dumps({"error": "x", "hint": "canary " * 500})):
        found = token_responses.parse(body)
        assert isinstance(found, TokenError)
        assert (len(found.words) <= 2000, "canary" in found.words, "canary" in repr(found)) == (True, True, False)


@given(st.binary(max_size=200) | st.text(alphabet='{}[]":,=&aceknorst_%0', max_size=60).map(str.encode))
@fuzz(300)
def test_arbitrary_bytes_are_tokens_or_an_error(body: bytes) -> None:
    found = token_responses.parse(body)
    if isinstance(found, Tokens):
        assert found.access_token


@pytest.mark.parametrize(
    ("members", "path", "scopes"),
    [
        ({"authed_user": {"id": "U1", "scope": "a,b"}}, "authed_user.scope", ("a", "b")),
        ({"scopes": ["a", "b"]}, "scopes", ("a", "b")),
        ({"scope": "a", "authed_user": {"scope": "a,b"}}, "authed_user.scope", ("a",)),
        ({"authed_user": "U1"}, "authed_user.scope", None),
        ({"restricted_to": [{"scope": "a", "object": {}}, {"scope": "b"}]}, "restricted_to.scope", ("a", "b")),
        ({"restricted_to": [{"scope": "a"}, {"object": {}}]}, "restricted_to.scope", None),
        ({"restricted_to": [{"scope": "a"}, "b"]}, "restricted_to.scope", None),
        ({"restricted_to": []}, "restricted_to.scope", None),
        ({"authed_user": {"scope": {"a": 1}}}, "authed_user.scope", None),
    ],
)
def test_scopes_are_found_where_the_profile_says_when_the_standard_member_is_silent(
    members: dict[str, Any], path: str, scopes: tuple[str, ...] | None
) -> None:
    found = token_responses.parse(orjson.dumps({"access_token": "a"} | members), scope_claim=path)
    assert isinstance(found, Tokens)
    assert found.scopes == scopes


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("id", 7),
        ("owner.user.id", "u-1"),
        ("owner.user", {"id": "u-1"}),
        ("owner.id", None),
        ("id.user", None),
        ("", None),
    ],
)
def test_a_path_leads_into_objects_and_nowhere_else(path: str, value: Any) -> None:
    assert token_responses.member_at({"id": 7, "owner": {"user": {"id": "u-1"}}}, path) == value


@pytest.mark.parametrize("members", [{}, {"claims": "{}"}])
def test_an_error_that_asks_for_more_claims_is_a_challenge(members: dict[str, Any]) -> None:
    found = token_responses.parse(orjson.dumps({"error": "interaction_required"} | members))
    assert isinstance(found, TokenError)
    assert (found.code, found.is_challenge) == ("interaction_required", bool(members))
