"""Form bodies: each name once, bounded, or an error; never a guess (RFC 6749 section 3.2, security.md X6)."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fuzz import fuzz

from cab.domain.errors import BrokerError, Reason
from cab.protocol.forms import parse_form, parse_query, required


def refused(body: bytes) -> tuple[Reason, str | None]:
    with pytest.raises(BrokerError) as error:
        parse_form(body)
    return error.value.reason, error.value.remedy.member


def test_parameters_are_decoded_once() -> None:
    assert parse_form(b"a=1&b=x+y%20z&c=%25&d=%C3%A9&e=1%2B1&f==") == {
        "a": "1",
        "b": "x y z",
        "c": "%",
        "d": "é",
        "e": "1+1",
        "f": "=",
    }


@fuzz(100)
@given(st.text(max_size=20))
def test_every_text_comes_back_as_it_was_sent(text: str) -> None:
    value = text.replace("\x00", "") + "\\x41"
    assert parse_form(urlencode({"v": value}).encode()) == {"v": value}


def test_what_python_would_take_for_an_escape_is_text_like_any_other() -> None:
    assert parse_form(rb"v=\x41\N{DIGIT ONE}\u0041%5Cx41%0A\&w=\x41") == {
        "v": "\\x41\\N{DIGIT ONE}\\u0041\\x41\n\\",
        "w": "\\x41",
    }


def test_an_empty_body_has_no_parameters() -> None:
    assert parse_form(b"") == {}


@pytest.mark.requirement("RFC6749-3.2-1")
def test_a_parameter_without_value_counts_as_omitted() -> None:
    assert parse_form(b"a=&b=1&c=") == {"b": "1"}


@pytest.mark.requirement("RFC6749-3.2-2")
@pytest.mark.parametrize("body", [b"a=1&a=2", b"a=1&a=1", b"a=&a=1", b"a=1&%61=2", b"b=1&a=1&c=1&a="])
def test_a_parameter_that_stands_twice_is_refused_by_name(body: bytes) -> None:
    assert refused(body) == (Reason.PARAMETER_REPEATED, "a")


@pytest.mark.requirement("RFC8707-2-2")
@pytest.mark.parametrize("name", ["resource", "audience"])
def test_a_second_target_is_refused_as_a_target(name: str) -> None:
    assert refused(f"{name}=https://a.test&{name}=https://b.test".encode()) == (Reason.TARGET_REPEATED, name)


@pytest.mark.parametrize(
    "body",
    [
        b"a",
        b"=1",
        b"a=1&",
        b"&a=1",
        b"a=1&&b=2",
        b"a=%",
        b"a=%4",
        b"a=%zz",
        b"a=%ff",
        b"a=%ed%a0%80",
        b"a=%c0%af",
        "a=é".encode(),
        b"\xff=1",
        b"a b=1",
        b"a%00=1",
        b"%3Cscript%3E=1",
        b"a[]=1",
        b"a;b=1",
        b"x" * 65 + b"=1",
        b'{"grant_type":"x"}',
        b"--boundary\r\n",
        b"&".join(b"p%d=1" % number for number in range(51)),
        b"&" * 60_000,
        b"=" * 60_000,
    ],
)
def test_a_malformed_body_is_refused(body: bytes) -> None:
    assert refused(body)[0] is Reason.PARAMETER_INVALID


def test_fifty_parameters_are_the_most() -> None:
    assert len(parse_form(b"&".join(b"p%d=1" % number for number in range(50)))) == 50


@pytest.mark.parametrize("value", ["x" * 16_385, "a\x00b", "\x00"])
def test_a_value_that_is_too_long_or_holds_nul_is_refused_by_name(value: str) -> None:
    assert refused(urlencode({"subject_token": value}).encode()) == (Reason.PARAMETER_INVALID, "subject_token")


def test_a_value_of_sixteen_kib_passes() -> None:
    assert parse_form(urlencode({"a": "x" * 16_384}).encode()) == {"a": "x" * 16_384}


def test_a_semicolon_separates_nothing() -> None:
    assert parse_form(b"a=1;b=2") == {"a": "1;b=2"}


def test_a_required_parameter_is_missed_by_name() -> None:
    with pytest.raises(BrokerError) as error:
        required({"a": "1"}, "b")
    assert (error.value.reason, error.value.remedy.member) == (Reason.PARAMETER_MISSING, "b")


@given(st.binary(max_size=200) | st.text(alphabet="ab=&%+20Cé;[]\x00", max_size=60).map(str.encode))
@fuzz(375)
def test_arbitrary_bodies_are_parameters_or_refused(body: bytes) -> None:
    try:
        form = parse_form(body)
    except BrokerError:
        return
    assert all(value and "\x00" not in value for value in form.values())
    assert parse_form(urlencode(form).encode()) == form


# --- the queries of addresses, which others write ---

WANTED = frozenset({"code", "state", "error", "iss"})


@pytest.mark.parametrize(
    "query",
    [
        b"code=a%2Fb&state=s",
        b"code=a%2Fb&state=s&",
        b"&&code=a%2Fb&&state=s&&",
        b"c%6Fde=a%2fb&stat%65=s",
        b"code=a%2Fb&state=s&error=&iss",
        b"code=a%2Fb&state=s&location=us&accounts-server=x&session_state=y.z",
        b"code=a%2Fb&state=s&extra[0]=1&extra[0]=2&extra%5B%5D",
        b"code=a%2Fb&state=s&scope=a+b&scope=a+b&a+b=c",
        b"code=a%2Fb&state=s&n=%zz&%=%&m=100%",
        b"code=a%2Fb&state=s&\xff\xfe=\xff&%ff=%00&\xc3\xa9=\xc3",
        b"code=a%2Fb&state=s&" + b"&".join(b"p=1" for _ in range(2000)),
        b"=x&code=a%2Fb&state=s&CODE=x&code[]=x&%20code=x",
    ],
)
def test_what_is_not_read_of_an_address_may_look_as_it_likes(query: bytes) -> None:
    found, _ = parse_query(query, WANTED)
    assert found == {"code": "a/b", "state": "s"}


@pytest.mark.parametrize(
    ("query", "value"),
    [(b"code=a+b", "a b"), (b"code=a%2Bb", "a+b"), (b"code=100%", "100%"), (b"code=%zz", "%zz"), (b"code=a=b", "a=b")],
)
def test_what_begins_no_escape_stands_for_itself(query: bytes, value: str) -> None:
    assert parse_query(query, WANTED)[0] == {"code": value}


@pytest.mark.parametrize(
    "query",
    [b"code=a&code=a", b"code&code=a", b"code=&code=a", b"c%6fde=a&code=a", b"code=%ff", b"code=\xff", b"code=%00"],
)
def test_what_is_read_of_an_address_stands_once_and_is_text(query: bytes) -> None:
    with pytest.raises(BrokerError) as refused:
        parse_query(query + b"&state=s", WANTED)
    assert refused.value.reason in (Reason.PARAMETER_REPEATED, Reason.PARAMETER_INVALID)
    assert refused.value.remedy.member == "code"


@given(st.binary(max_size=200))
@fuzz(300)
def test_any_address_is_read_or_refused(query: bytes) -> None:
    try:
        found, names = parse_query(query, WANTED)
    except BrokerError as error:
        found, names = {}, frozenset({error.remedy.member or ""}) & WANTED
        assert names
    assert found.keys() <= WANTED & names
