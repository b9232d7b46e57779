"""What an event says of a call."""

from __future__ import annotations

import typing

from cab.domain.audit import OUTCOME_OF_CALL, CallOutcome, without_credentials

TOKEN = "xoxb-" + "1234567890-abcdefghij"


def test_what_clients_and_platforms_say_of_a_call_holds_no_token() -> None:
    written = ("id", "upstream_request_id", "content_type")
    document = {"call": dict.fromkeys(written, f"a {TOKEN}") | {"host": "crm", "items": 3}}
    safe = without_credentials(document)["call"]
    assert all(safe[name].startswith("a [token sha-256:") for name in written)
    assert (safe["host"], safe["items"]) == ("crm", 3)


def test_a_digest_stays_what_it_is_although_it_may_look_like_a_token() -> None:
    """One in six thousand holds the letters with which a JWT begins."""
    document = {"call": {"request_digest": "sha-256:" + "a" * 20 + "eyJ" + "b" * 20}}
    assert without_credentials(document) == document


def test_an_id_that_looks_like_a_token_still_joins_attempt_and_outcome() -> None:
    ids = [without_credentials({"call": {"id": TOKEN, "host": host}})["call"]["id"] for host in ("crm", "tracker")]
    assert ids[0] == ids[1] != TOKEN


def test_every_outcome_of_a_call_is_one_of_its_event() -> None:
    assert OUTCOME_OF_CALL.keys() == set(typing.get_args(CallOutcome))
