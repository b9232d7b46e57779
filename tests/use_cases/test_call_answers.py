"""What of a platform's answer reaches an agent (call-mode.md section 4, "In")."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import time
from typing import Any
from urllib.parse import quote

import pytest
import rfc8785
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cab.domain.configured.calls import Result
from cab.domain.errors import Reason
from cab.domain.text.invisible import without_invisible
from cab.ports import HttpAnswer
from cab.use_cases.calls.answers import MAX_WIRE_BYTES, AnswerRefused, Reduced, at, echoes, reduce

SALT = "c2FsdHNhbHRzYWx0c2FsdA"
TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"


def answered(document: Any, content_type: str = "application/json", **headers: str) -> HttpAnswer:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return HttpAnswer(200, {"content-type": content_type} | headers, body)


def reduced(document: Any, *, content_type: str = "application/json", copies: int = 1, **declared: Any) -> Reduced:
    return reduce(answered(document, content_type), Result(**declared), salt=SALT, copies=copies)


def refused(document: Any, *, content_type: str = "application/json", copies: int = 1, **declared: Any) -> Reason:
    with pytest.raises(AnswerRefused) as caught:
        reduced(document, content_type=content_type, copies=copies, **declared)
    assert isinstance(caught.value.reason, Reason)
    return caught.value.reason


# --- members ---

DEAL = {"id": 1, "name": "Acme", "owner": {"id": 7, "mail": "a@b"}, "notes": [{"text": "x", "by": "bob"}]}


@pytest.mark.parametrize(
    ("declared", "kept"),
    [
        ({}, DEAL),
        ({"select": ("id", "name")}, {"id": 1, "name": "Acme"}),
        ({"select": ("id", "absent")}, {"id": 1}),
        ({"select": ("/owner/id", "/notes/text")}, {"owner": {"id": 7}, "notes": [{"text": "x"}]}),
        ({"select": ("owner", "/owner/id")}, {"owner": {"id": 7, "mail": "a@b"}}),
        ({"select": ("notes", "/notes/text")}, {"notes": [{"text": "x", "by": "bob"}]}),
        ({"select": ("/notes/text", "/notes/by")}, {"notes": [{"text": "x", "by": "bob"}]}),
        ({"select": ("/name/first", "/id")}, {"id": 1}),
        ({"omit": ("/owner/mail", "/notes/by")}, DEAL | {"owner": {"id": 7}, "notes": [{"text": "x"}]}),
        ({"omit": ("/name/first", "/notes/0/text", "/absent/x")}, DEAL),
        ({"omit": ("owner", "notes", "absent")}, {"id": 1, "name": "Acme"}),
        ({"select": ("owner",), "omit": ("/owner/mail",)}, {"owner": {"id": 7}}),
    ],
)
def test_declared_members_remain(declared: dict[str, Any], kept: Any) -> None:
    assert reduced(DEAL, **declared).value == kept
    assert reduced([DEAL, DEAL], **declared).value == [kept, kept]


def test_what_is_no_object_has_no_members_to_choose() -> None:
    assert reduced({"notes": ["x", {"text": "y"}, None]}, select=("/notes/text",)).value == {
        "notes": [{}, {"text": "y"}, {}]
    }
    assert reduced([1, "a", None], select=("id",)).value == [1, "a", None]


def test_a_member_under_what_was_taken_whole_is_not_looked_for_in_something_else() -> None:
    page = {"a": {"b": "text", "c": {"d": 1}}}
    assert reduced(page, select=("/a/b", "/a/b/x", "/a/c/d")).value == {"a": {"b": "text", "c": {"d": 1}}}


def test_a_text_has_no_members_to_leave_out() -> None:
    assert reduced({"a": "b and more"}, omit=("/a/b",)).value == {"a": "b and more"}


@pytest.mark.parametrize(("encoding", "taken"), [("", True), (" Identity ", True), ("gzip", False), ("br", False)])
def test_an_answer_that_says_it_is_packed_is_refused_whatever_it_is(encoding: str, taken: bool) -> None:
    headers = {"content-type": "application/json", "content-encoding": encoding}
    answer = HttpAnswer(200, headers, b'{"id": 1}')
    if taken:
        assert reduce(answer, Result(), salt=SALT, copies=1).value == {"id": 1}
    else:
        with pytest.raises(AnswerRefused, match="compressed"):
            reduce(answer, Result(), salt=SALT, copies=1)


def test_a_list_has_its_items_its_cursor_and_nothing_beside() -> None:
    page = {"data": {"deals": [DEAL, DEAL]}, "paging": {"next": "c2"}, "total": 9}
    found = reduced(page, items="/data/deals", next="/paging/next", select=("id",))
    assert (found.value, found.items) == ({"items": [{"id": 1}, {"id": 1}], "next": "c2"}, 2)


@pytest.mark.parametrize("last", [None, "", False])
def test_the_last_page_has_no_cursor(last: Any) -> None:
    assert reduced({"deals": [], "next": last}, items="/deals", next="/next").value == {"items": []}


def test_more_items_than_declared_are_refused_and_not_cut() -> None:
    assert refused({"deals": [1, 2, 3]}, items="/deals", max_items=2) is Reason.RESPONSE_TOO_LARGE


@pytest.mark.parametrize("document", [{}, {"deals": {}}, {"deals": None}, [], "x"])
def test_an_answer_without_the_declared_list_is_refused(document: Any) -> None:
    assert refused(document, items="/deals") is Reason.RESPONSE_TYPE_NOT_ALLOWED


@pytest.mark.parametrize(
    "name", ["access_token", "refreshToken", "Client-Secret", "Set-Cookie", "pass\u200bword", "API key"]
)
def test_credentials_are_left_out_unless_they_are_asked_for_by_name(name: str) -> None:
    assert reduced({"id": 1, name: "s3cret"}).value == {"id": 1}
    assert reduced({"a": [{"b": {name: "s3cret"}}]}).value == {"a": [{"b": {}}]}
    assert reduced({"a": {name: "s3cret"}}, select=("a",)).value == {"a": {}}
    assert list(reduced({name: "s3cret"}, select=(name,)).value.values()) == ["s3cret"]


def test_a_credential_that_is_asked_for_in_one_place_is_left_out_in_every_other() -> None:
    page = {"wifi": [{"password": "asked for"}], "owner": {"password": "s3cret", "keys": [{"password": "s3cret"}]}}
    kept = {"wifi": [{"password": "asked for"}], "owner": {"keys": [{}]}}
    assert reduced(page, select=("/wifi/password", "owner")).value == kept
    assert reduced({"items": [page]}, items="/items", select=("/wifi/password", "owner")).value == {"items": [kept]}


@pytest.mark.parametrize("name", ["token_count", "next_page_token", "passwords_changed", "author"])
def test_members_that_only_sound_like_credentials_stay(name: str) -> None:
    assert reduced({name: 1}).value == {name: 1}


def test_a_pointer_leads_through_escapes_and_arrays() -> None:
    assert at({"a/b": [{"~": 5}]}, "/a~1b/0/~0") == 5
    assert at({"a": 1}, "/a/b") is None
    assert at([1], "/-1") is None
    assert at([1], "") == [1]


# --- size and kind ---


def test_the_size_counts_every_copy_that_is_sent() -> None:
    long = "x" * 500
    body = len(b'{"a":""}') + 500
    assert reduced({"a": long}, max_bytes=body).value == {"a": long}
    assert refused({"a": long + "x"}, max_bytes=body) is Reason.RESPONSE_TOO_LARGE
    assert refused({"a": long}, max_bytes=2 * body - 1, copies=2) is Reason.RESPONSE_TOO_LARGE
    assert reduced({"a": long}, max_bytes=2 * body, copies=2).value == {"a": long}


def test_the_size_is_of_what_is_sent_and_not_of_what_was_received() -> None:
    assert reduced({"id": 1, "blob": "x" * 100_000}, select=("id",), max_bytes=300).value == {"id": 1}


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":2}',
        b"[" * 33 + b"]" * 33,
        b'{"a":NaN}',
        b"<html>",
        b"\xff",
        b'{"a":1}{"a":1}',
        b'{"a\\u200b":1,"a":2}',
        gzip.compress(b"{}", mtime=0),
    ],
)
def test_json_with_more_than_one_meaning_is_refused(body: bytes) -> None:
    assert refused(body) is Reason.RESPONSE_TYPE_NOT_ALLOWED


def test_json_may_be_32_deep_and_begin_with_a_byte_order_mark() -> None:
    assert reduced(b"[" * 32 + b"]" * 32).body == b"[" * 32 + b"]" * 32
    assert reduced(b"\xef\xbb\xbf[1]").value == [1]


@pytest.mark.parametrize(
    "kind", ["application/problem+json; charset=utf-8", "Application/JSON", "application/hal+json"]
)
def test_every_kind_of_json_is_json(kind: str) -> None:
    assert reduced({"a": 1}, content_type=kind).value == {"a": 1}


@pytest.mark.parametrize(
    "kind",
    [
        "text/html",
        "application/octet-stream",
        "",
        "image/png",
        "application/jsonp",
        "json",
        "a b/c+json",
        "x" * 200 + "/y+json",
    ],
)
def test_other_kinds_pass_only_where_they_are_declared(kind: str) -> None:
    assert refused(b"{}", content_type=kind) is Reason.RESPONSE_TYPE_NOT_ALLOWED
    if re.fullmatch("[a-z]+/[a-z-]+", kind):
        found = reduced(b"\x89PNG", content_type=f"{kind}; q=1", type=kind)
        assert found.value == {"content_type": kind, "base64": base64.b64encode(b"\x89PNG").decode()}


def test_text_is_text() -> None:
    assert reduced("häßlich".encode(), content_type="text/plain").value == "häßlich"
    assert reduced("häßlich".encode("latin-1"), content_type="text/plain; charset=ISO-8859-1").value == "häßlich"
    assert refused(b"\xff", content_type="text/plain") is Reason.RESPONSE_TYPE_NOT_ALLOWED


def test_nothing_is_nothing() -> None:
    assert reduced(b"", content_type="").value is None


def test_an_encoded_answer_is_never_unpacked() -> None:
    answer = HttpAnswer(
        200, {"content-type": "application/json", "content-encoding": "gzip"}, gzip.compress(b"{}", mtime=0)
    )
    with pytest.raises(AnswerRefused):
        reduce(answer, Result(), salt=SALT)


def test_numbers_that_readers_take_differently_go_as_text() -> None:
    assert reduced({"id": 2**53, "n": 2**53 - 1, "f": 1.5}).value == {"id": str(2**53), "n": 2**53 - 1, "f": 1.5}


# --- marking ---


@pytest.mark.parametrize(
    "hidden", ["\u200b", "\u202e", "\U000e0041", "\ufeff", "\u2066", "\x1b", "\u00ad", "\ufe0f", "\U000e0100", "\u3164"]
)
def test_what_nobody_sees_is_removed_and_counted(hidden: str) -> None:
    found = reduced({"no" + hidden + "te": ["a" + hidden * 3 + "b"]})
    assert (found.value, found.marked_characters) == ({"note": ["ab"]}, 4)


@pytest.mark.parametrize("text", ["line\nline\ttab\r\n", "naïve", "日本語", "עברית", "😀", "한국어", "ไทย"])
def test_what_people_read_stays(text: str) -> None:
    found = reduced({"a": text})
    assert (found.value, found.marked_characters) == ({"a": text}, 0)


# --- the commitment ---

NAMES = st.text(min_size=1).filter(
    lambda name: without_invisible(name) == (name, 0)
)  # others may look the same: refused
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(JSON)
def test_whoever_holds_the_answer_and_the_salt_can_prove_what_it_was(document: Any) -> None:
    found = reduced(json.dumps(document).encode() or b"null", omit=("nothing",))
    raw = base64.urlsafe_b64decode(SALT + "==") + rfc8785.dumps(json.loads(found.body))
    expected = base64.urlsafe_b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=")
    assert found.commitment == f"sha-256:{expected}"


# --- the token in the answer ---

ENCODINGS: dict[str, Any] = {
    "plain": str.encode,
    "percent": lambda text: quote(f"Bearer {text}", safe="").replace("e", "%65").encode(),
    "escaped": lambda text: json.dumps({"a": [text]}).replace("e", "\\u0065").encode(),
    "base64": lambda text: base64.b64encode(text.encode()),
    "base64 of a header": lambda text: base64.b64encode(f"Bearer {text}".encode()),
    "base64 in the middle": lambda text: base64.b64encode(f"xx{text}; and more".encode()),
    "base64url": lambda text: base64.urlsafe_b64encode(f"x{text}".encode()),
    "hexadecimal": lambda text: text.encode().hex().upper().encode(),
    "its latter half": lambda text: text[len(text) // 2 :].encode(),
}


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
def test_the_token_is_found_however_it_is_written(encode: Any) -> None:
    assert echoes(answered(b"[" + encode(TOKEN) + b"]"), TOKEN)
    headers = {"date": "now", "x-seen": encode(TOKEN).decode(), "x-more": "{}"}
    assert echoes(HttpAnswer(500, headers, b""), TOKEN)


OPAQUE = "00D5g000004a/Bc+" * 4 + "=="
UNSEEN = ["\u200b", "\u00ad", "\ufe0f", "\U000e0041", "\x00", "\x1b"]


def _escaped(text: str) -> bytes:
    """As .NET writes it."""
    return json.dumps({"sent": text}).replace("+", "\\u002B").replace("=", "\\u003D").encode()


@pytest.mark.parametrize("unseen", UNSEEN)
@pytest.mark.parametrize(
    ("content_type", "written"),
    [
        ("application/json", lambda text: json.dumps({"sent": text}).encode()),
        ("application/json", lambda text: json.dumps({text: 1}, ensure_ascii=False).encode("utf-8", "surrogatepass")),
        ("text/plain", str.encode),
        ("text/plain; charset=iso-8859-1", lambda text: text.encode("latin-1", "ignore")),
    ],
)
def test_a_token_broken_by_what_nobody_sees_is_found_as_it_would_go_on_whole(
    content_type: str, written: Any, unseen: str
) -> None:
    assert echoes(answered(written(unseen.join([OPAQUE[:9], OPAQUE[9:50], OPAQUE[50:]])), content_type), OPAQUE)


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + _escaped(OPAQUE),
        json.dumps({"log": _escaped(OPAQUE).decode()}).encode(),
        b"GET / with " + _escaped(OPAQUE).replace(b"/", b"\\/"),
    ],
    ids=["with a byte order mark", "in text of text", "in a line of a log"],
)
def test_an_escaped_token_is_found_in_whatever_is_no_plain_document(body: bytes) -> None:
    assert echoes(answered(body), OPAQUE)


def test_a_large_answer_of_nothing_but_escapes_is_looked_through_at_once() -> None:
    for piece in (b"\\", b"\\u", b"\\u00", b"\\/", b"%5c", b"%"):
        began = time.process_time()
        assert not echoes(answered(piece * (MAX_WIRE_BYTES // len(piece)), "text/plain"), OPAQUE)
        assert time.process_time() - began < 5


def test_another_token_of_the_same_platform_is_not_taken_for_it() -> None:
    assert not echoes(answered({"etag": TOKEN[:40], "other": TOKEN[:-8] + "12345678"}), TOKEN)
    assert not echoes(answered({}), TOKEN)
