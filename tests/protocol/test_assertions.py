"""Assertions: what is written is what is read, and a malformed claim is refused even under our own signature."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.support.jose import ABSENT, present

from cab.domain.groups import GroupsUnknown
from cab.domain.tasks import Task
from cab.protocol.jose.jws import TokenRejected, VerifiedClaims
from cab.protocol.tokens import assertions
from cab.protocol.tokens.assertions import MAX_GROUPS, Assertion

ISSUED = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
STS = "https://cab.test/oauth2"

FULL = Assertion(
    issuer="https://cab.test/edge",
    subject="subject-key",
    tenant="acme",
    idp_issuer="https://idp.test",
    idp_subject_hash="hash-of-subject",
    groups=("admin", "staff"),
    front_end="web",
    may_act="assistant",
    txn="txn-1",
    jti="jti-1",
    issued_at=ISSUED,
    expires_at=ISSUED + timedelta(seconds=300),
    chain=("second", "first"),
    task=Task(type="cab_task", task_id="t-81", actions=("crm.*",), identifiers=("deal/*",)),
    auth_time=1_795_262_000,
    vouched_at=1_795_262_100,
    acr="gold",
    amr=("pwd", "otp"),
    jkt="thumbprint",
)
CLAIMS: dict[str, Any] = {
    "iss": "https://cab.test/edge",
    "aud": STS,
    "sub": "subject-key",
    "tenant": "acme",
    "idp": {"iss": "https://idp.test", "sub_hash": "hash-of-subject"},
    "groups": ["admin", "staff"],
    "client_id": "web",
    "may_act": {"sub": "assistant"},
    "txn": "txn-1",
    "iat": 1_795_262_400,
    "exp": 1_795_262_700,
    "jti": "jti-1",
    "act": {"sub": "second", "iss": STS, "act": {"sub": "first", "iss": STS}},
    "authorization_details": [
        {
            "type": "cab_task",
            "task_id": "t-81",
            "trigger": "user_turn",
            "actions": ["crm.*"],
            "identifiers": ["deal/*"],
        }
    ],
    "auth_time": 1_795_262_000,
    "vouched_at": 1_795_262_100,
    "acr": "gold",
    "amr": ["pwd", "otp"],
    "cnf": {"jkt": "thumbprint"},
}
OPTIONAL = ("act", "authorization_details", "auth_time", "vouched_at", "acr", "amr", "cnf")


def verified(**changes: Any) -> VerifiedClaims:
    claims = present(CLAIMS | changes)
    return VerifiedClaims(claims, issuer=CLAIMS["iss"], expires_at=ISSUED + timedelta(seconds=300), issued_at=ISSUED)


def test_an_assertion_is_written_with_every_claim_of_the_contract() -> None:
    assert FULL.claims(audience=STS, sts_issuer=STS) == CLAIMS


def test_what_is_written_is_read_back() -> None:
    assert assertions.read(verified()) == FULL
    assert assertions.restore(CLAIMS) == FULL


@pytest.mark.parametrize("name", OPTIONAL)
def test_a_claim_that_is_not_known_is_left_out(name: str) -> None:
    without = assertions.read(verified(**{name: ABSENT}))
    assert name not in without.claims(audience=STS, sts_issuer=STS)


def test_groups_are_known_or_not_known_and_never_both() -> None:
    unknown = verified(groups=ABSENT, groups_unknown="missing")
    assert assertions.read(unknown).groups_unknown is GroupsUnknown.MISSING
    assert assertions.read(verified()).groups_unknown is None
    assert assertions.read(verified(groups=ABSENT)).groups == ()
    with pytest.raises(TokenRejected, match="both known and unknown"):
        assertions.read(verified(groups_unknown="missing"))


def test_as_many_groups_and_methods_are_read_as_are_ever_written() -> None:
    groups = tuple(f"group-{number}" for number in range(MAX_GROUPS))
    methods = tuple(f"m{number}" for number in range(20))
    found = assertions.read(verified(groups=list(groups), amr=list(methods)))
    assert (found.groups, found.amr) == (groups, methods)
    with pytest.raises(TokenRejected, match="groups"):
        assertions.read(verified(groups=[*groups, "one-more"]))
    with pytest.raises(TokenRejected, match="amr"):
        assertions.read(verified(amr=[*methods, "one-more"]))


MALFORMED: list[tuple[str, Any]] = [
    *((name, ABSENT) for name in CLAIMS if name not in (*OPTIONAL, "groups", "iss", "aud", "iat", "exp")),
    ("sub", ""),
    ("sub", 7),
    ("sub", "a\x00"),
    ("tenant", ["acme"]),
    ("idp", "https://idp.test"),
    ("idp", {"iss": "https://idp.test"}),
    ("idp", {"iss": 7, "sub_hash": "h"}),
    ("idp", {"iss": "i" * 501, "sub_hash": "h"}),
    ("groups", "staff"),
    ("groups", [7]),
    ("groups", [""]),
    ("groups", ["g"] * 101),
    ("may_act", "assistant"),
    ("may_act", {}),
    ("may_act", {"sub": ["assistant"]}),
    ("may_act", {"sub": "../assistant"}),
    ("may_act", {"sub": "assistant\n"}),
    ("may_act", [{"sub": "assistant"}]),
    ("act", "second"),
    ("act", {}),
    ("act", {"sub": 7}),
    ("act", {"sub": "a", "act": "b"}),
    ("act", {"sub": "a", "act": {"sub": "b", "act": {"sub": "c", "act": {"sub": "d"}}}}),
    ("authorization_details", {}),
    ("authorization_details", []),
    ("authorization_details", [CLAIMS["authorization_details"][0]] * 2),
    ("authorization_details", [{"type": "cab_action"}]),
    ("authorization_details", [CLAIMS["authorization_details"][0] | {"x": 1}]),
    ("auth_time", "now"),
    ("auth_time", True),
    ("vouched_at", "now"),
    ("acr", 7),
    ("acr", ""),
    ("amr", "pwd"),
    ("amr", [7]),
    ("amr", ["a"] * 21),
    ("cnf", "thumbprint"),
    ("cnf", {}),
    ("cnf", None),
]


@pytest.mark.requirement("RFC8693-4.1-1")
@pytest.mark.requirement("RFC8693-4.4-1")
@pytest.mark.parametrize(("name", "value"), MALFORMED, ids=lambda part: repr(part)[:40])
def test_a_malformed_claim_is_refused(name: str, value: Any) -> None:
    with pytest.raises(TokenRejected):
        assertions.read(verified(**{name: value}))


def test_an_assertion_without_iat_is_refused() -> None:
    claims = VerifiedClaims(CLAIMS, issuer=CLAIMS["iss"], expires_at=ISSUED, issued_at=None)
    with pytest.raises(TokenRejected):
        assertions.read(claims)


@pytest.mark.requirement("RFC8693-4.1-1")
def test_the_current_actor_stands_outside_and_earlier_ones_inside() -> None:
    assert assertions.actor_claim(("c", "b", "a"), STS, sub_profile="ai_agent") == {
        "sub": "c",
        "iss": STS,
        "sub_profile": "ai_agent",
        "act": {"sub": "b", "iss": STS, "act": {"sub": "a", "iss": STS}},
    }


@pytest.mark.parametrize(
    ("not_after_s", "lives_s"), [(3600, 300), (300, 300), (120, 120), (120.9, 120), (0.9, 0), (-5, -5)]
)
def test_an_assertion_ends_with_what_it_was_made_from(not_after_s: float, lives_s: int) -> None:
    end = assertions.expiry(ISSUED, lifetime_s=300, not_after=ISSUED + timedelta(seconds=not_after_s))
    assert end == ISSUED + timedelta(seconds=lives_s)


def test_expires_in_is_counted_between_whole_seconds_and_never_negative() -> None:
    now = ISSUED + timedelta(milliseconds=999)
    assert assertions.whole_seconds_until(ISSUED + timedelta(seconds=300), now) == 300
    assert assertions.whole_seconds_until(ISSUED - timedelta(seconds=5), now) == 0
