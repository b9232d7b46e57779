"""What came to a decision, in one word."""

from __future__ import annotations

import pytest

from cab.domain.decisions import BY_REASON, decided_by
from cab.domain.errors import Reason


def test_a_refusal_is_decided_by_what_its_reason_is_of() -> None:
    def by(reason: Reason) -> str | None:
        return decided_by(reason, decision="permit", confirmed=True)

    assert by(Reason.INTENT_OUTSIDE_TASK) == "task"
    assert by(Reason.ACTION_NOT_ALLOWED_FOR_AGENT) == "allow_list"
    assert by(Reason.POLICY_DENIED) == "policy"
    assert by(Reason.CONFIRMATION_REFUSED) == "user"
    assert by(Reason.RATE_LIMITED) == "limit"
    assert by(Reason.GRANT_REVOKED) == "grant"
    assert by(Reason.PROVIDER_UNAVAILABLE) == "outage"
    assert by(Reason.CLIENT_AUTHENTICATION_FAILED) == "credential"
    assert by(Reason.PARAMETER_MISSING) == "request"


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason.value.endswith("_unavailable")])
def test_what_is_away_is_an_outage_and_nobodys_decision(reason: Reason) -> None:
    assert BY_REASON[reason] == "outage"


def test_what_was_permitted_was_so_by_the_user_who_was_asked_or_by_policy() -> None:
    assert decided_by(None, decision="permit", confirmed=True) == "user"
    assert decided_by(None, decision="permit", confirmed=False) == "policy"
    assert decided_by(None, decision=None, confirmed=False) is None
