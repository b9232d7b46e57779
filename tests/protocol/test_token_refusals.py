"""What a refusal means: a dead token, our own fault, an outage, or a no in unknown words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.fuzz import fuzz

from cab.protocol import token_refusals, token_responses
from cab.protocol.token_refusals import Refusal, RefusalMeaning
from cab.protocol.token_responses import TokenError


def judged(status: int, body: Any, headers: dict[str, str] | None = None, **known: Any) -> Refusal:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    error = token_responses.parse(raw)
    assert isinstance(error, TokenError)
    return token_refusals.judge(error, status=status, headers=headers or {}, **known)


MEANINGS: dict[str, tuple[int, Any, RefusalMeaning]] = {
    "the standard's word": (400, {"error": "invalid_grant"}, RefusalMeaning.DEAD),
    "in capitals under another name": (400, {"status": "BAD_REFRESH_TOKEN"}, RefusalMeaning.DEAD),
    "a user who must log in": (400, {"error": "interaction_required", "claims": "{}"}, RefusalMeaning.DEAD),
    "with any refusing status": (409, {"error": "invalid_grant"}, RefusalMeaning.DEAD),
    "not with a server's trouble": (500, {"error": "invalid_grant"}, RefusalMeaning.BUSY),
    "scopes": (400, {"error": "invalid_scope"}, RefusalMeaning.SCOPE),
    "a client": (401, {"error": "invalid_client"}, RefusalMeaning.OUR_FAULT),
    "a client, of a dead token": (403, {"error": "unauthorized_client"}, RefusalMeaning.NO),
    "a client, and its token": (
        403,
        {"error": "unauthorized_client", "error_description": "refresh_token is invalid"},
        RefusalMeaning.NO,
    ),
    "a client's token": (400, {"message": "The client's refresh token is invalid"}, RefusalMeaning.NO),
    "a client, in a link only": (400, {"error": "odd", "error_uri": "https://x.test/client-errors"}, RefusalMeaning.NO),
    "a missing client": (
        400,
        {"error": "invalid_request", "error_description": "client_id is missing"},
        RefusalMeaning.OUR_FAULT,
    ),
    "an unknown word": (400, {"error": "odd"}, RefusalMeaning.NO),
    "a number": (400, {"errcode": 40030}, RefusalMeaning.NO),
    "limits in words": (400, {"error": "Access Denied", "error_description": "Too many requests"}, RefusalMeaning.BUSY),
    "limits in a code": (403, {"error": "rate_limited"}, RefusalMeaning.BUSY),
    "a broken server": (400, {"error": "server_error"}, RefusalMeaning.BUSY),
    "a broken server that has looked": (
        401,
        {"error": "server_error", "error_description": "access_denied"},
        RefusalMeaning.NO,
    ),
    "a broken server in words": (400, {"message": "Internal Server Error"}, RefusalMeaning.BUSY),
    "a broken server in one word": (400, {"status": "INTERNAL"}, RefusalMeaning.BUSY),
    "a server that gave up": (400, {"error": "request_timeout"}, RefusalMeaning.BUSY),
    "a session that is over": (400, {"message": "Session timed out, please log in again"}, RefusalMeaning.NO),
    "a token that is over": (400, {"message": "Refresh token expired. Please try again."}, RefusalMeaning.NO),
    "only for the organisation's own": (403, {"error": "org_internal"}, RefusalMeaning.NO),
    "a proxy between": (407, b"", RefusalMeaning.OUR_FAULT),
    "nothing there": (404, b"", RefusalMeaning.OUR_FAULT),
    "elsewhere": (302, b"", RefusalMeaning.OUR_FAULT),
    "a firewall's page": (403, b"<!DOCTYPE html><title>Attention Required</title>", RefusalMeaning.OUR_FAULT),
    "a proxy's page about its own session token": (400, b"\n<html>Your session token</html>", RefusalMeaning.OUR_FAULT),
    "a page of the endpoint": (400, b"<html>The refresh token is invalid</html>", RefusalMeaning.NO),
    "XML of the endpoint": (400, b"<OAuth><error>invalid_grant</error></OAuth>", RefusalMeaning.NO),
    "our address": (403, {"error": "forbidden", "message": "IP not in allowlist"}, RefusalMeaning.OUR_FAULT),
    "our address, as Snowflake": (
        403,
        {"code": "390422", "message": "Incoming request with IP/Token 192.0.2.1 is not allowed.", "success": False},
        RefusalMeaning.OUR_FAULT,
    ),
    "our address, with the word for a dead token": (
        400,
        {"error": "invalid_grant", "error_description": "ip restricted"},
        RefusalMeaning.OUR_FAULT,
    ),
    "a dead token that came from somewhere": (
        400,
        {"error": "invalid_grant", "error_description": "The session was revoked for its IP address"},
        RefusalMeaning.DEAD,
    ),
    "a scope that is on no list": (
        400,
        {"error": "invalid_scope", "error_description": "not on the allow-list of scopes"},
        RefusalMeaning.SCOPE,
    ),
    "an app in one word": (400, {"error": "application_cannot_be_found"}, RefusalMeaning.OUR_FAULT),
    "an app that is off": (400, {"error": "app_disabled"}, RefusalMeaning.OUR_FAULT),
    "an app that a user removed": (400, {"error": "app_uninstalled"}, RefusalMeaning.NO),
    "an app that is not there any more": (400, {"error": "app_not_installed"}, RefusalMeaning.NO),
    "an app that a user took back": (
        400,
        {"error": "invalid_request", "error_description": "The user has deauthorized the application"},
        RefusalMeaning.NO,
    ),
    "an app without a consent": (403, {"message": "No consent was granted to this application"}, RefusalMeaning.NO),
    "a client's signature": (400, {"message": "The application's signing algorithm"}, RefusalMeaning.OUR_FAULT),
    "a key of ours": (401, {"error": {"message": "Invalid API Key provided"}}, RefusalMeaning.OUR_FAULT),
    "two at once": (
        400,
        {"error": "invalid_grant", "error_description": "token request is already being processed"},
        RefusalMeaning.BUSY,
    ),
    "a wrong secret, as Auth0 and Atlassian": (
        401,
        {"error": "access_denied", "error_description": "Unauthorized"},
        RefusalMeaning.OUR_FAULT,
    ),
    "the status in words": (401, {"statusCode": 401, "error": "Unauthorized"}, RefusalMeaning.OUR_FAULT),
    "the status of a token": (401, {"error": "unauthorized", "message": "API token is invalid"}, RefusalMeaning.NO),
    "an application of theirs that is gone": (400, {"error": "invalid_resource"}, RefusalMeaning.OUR_FAULT),
    "a firewall's page in plain text": (403, b"error code: 1020", RefusalMeaning.OUR_FAULT),
    "a proxy's rule": (403, b"RBAC: access denied", RefusalMeaning.OUR_FAULT),
    "forbidden to this one": (403, {"error": "forbidden"}, RefusalMeaning.NO),
    "a sentence": (403, b"Access denied: expired", RefusalMeaning.NO),
    "a word and no more": (400, b"invalid_grant\n", RefusalMeaning.DEAD),
    "a word in quotes": (400, b'"invalid_grant"', RefusalMeaning.DEAD),
    "a limit in words only": (400, {"error": "invalid_request", "message": "ThrottleExceeded"}, RefusalMeaning.BUSY),
    "a broken server that asks for more": (
        400,
        {"error": "unknown_error", "error_description": "retry your request"},
        RefusalMeaning.BUSY,
    ),
    "success without a word": (200, {}, RefusalMeaning.UNCLEAR),
    "success with a state": (200, {"status": "ok"}, RefusalMeaning.UNCLEAR),
    "success with a no": (200, {"ok": False, "error": "odd"}, RefusalMeaning.NO),
}


def test_an_answer_that_says_nothing_says_no_no() -> None:
    for nothing in (b"", b"<html>", b"\x00\x01"):
        error = token_responses.parse(nothing)
        assert isinstance(error, TokenError)
        assert (error.says_no, error.is_challenge, error.codes) == (False, False, frozenset())


@pytest.mark.parametrize(
    ("body", "says_no"),
    [
        ({"status": "expired"}, True),  # by a code alone
        ({"code": 1, "success": False}, True),  # by a switch alone
        ({"ok": False}, True),
        ({"errcode": 40030}, True),
        ({"status": "ok", "success": True, "errcode": 0}, False),
        ({"type": "page"}, False),
    ],
)
def test_a_no_is_said_by_a_word_or_by_a_switch(body: dict[str, Any], says_no: bool) -> None:
    error = token_responses.parse(json.dumps(body).encode())
    assert isinstance(error, TokenError)
    assert error.says_no is says_no


@pytest.mark.parametrize(("status", "body", "meaning"), MEANINGS.values(), ids=MEANINGS.keys())
def test_a_refusal_means_what_its_words_say(status: int, body: Any, meaning: RefusalMeaning) -> None:
    assert judged(status, body).meaning is meaning


def test_what_a_preset_knows_counts_with_its_statuses_and_in_a_success() -> None:
    known: dict[str, Any] = {"dead_codes": ("Invalid_Code",), "dead_statuses": (403,)}
    assert judged(403, {"error": "invalid_code"}, **known).meaning is RefusalMeaning.DEAD
    assert judged(200, {"error": "invalid_code"}, **known).meaning is RefusalMeaning.DEAD
    assert judged(400, {"error": "invalid_code"}, **known).meaning is RefusalMeaning.NO
    assert judged(403, {"error": "invalid_code"}).meaning is RefusalMeaning.NO


def test_the_scheme_of_a_401_tells_whom_it_refuses() -> None:
    assert judged(401, {"error": "odd"}).meaning is RefusalMeaning.NO
    assert judged(401, {"error": "odd"}, {"www-authenticate": "Bearer"}).meaning is RefusalMeaning.NO
    assert judged(401, {"error": "odd"}, {"www-authenticate": 'Basic realm="x"'}).meaning is RefusalMeaning.OUR_FAULT
    assert judged(401, b"").meaning is RefusalMeaning.OUR_FAULT


def test_the_same_no_reads_the_same_and_carries_no_text_of_others() -> None:
    first = judged(400, {"error": "odd", "message": "request 1: token abc", "code": "req-1", "trace": "1"})
    again = judged(400, {"error": "odd", "message": "request 2: token xyz", "code": "req-2", "trace": "2"})
    assert first.said == again.said == "http 400 odd"
    assert judged(403, {"error": "odd"}).said != first.said
    assert judged(400, {"error": "other"}).said != first.said
    assert len(judged(400, dict.fromkeys(("error", "code", "status", "type", "message"), "x" * 60)).said) <= 200


@pytest.mark.parametrize("status", [408, 425, 429, *range(500, 600)])
def test_a_server_in_trouble_is_never_taken_for_a_no(status: int) -> None:
    assert judged(
        status, {"error": "invalid_grant"}, dead_codes=("invalid_grant",), dead_statuses=(status,)
    ).meaning is (RefusalMeaning.BUSY)


@given(st.binary(max_size=200), st.integers(100, 599))
@fuzz(200)
def test_every_answer_has_a_meaning(body: bytes, status: int) -> None:
    error = token_responses.parse(body)
    if isinstance(error, TokenError):
        assert token_refusals.judge(error, status=status, headers={}).meaning in RefusalMeaning
