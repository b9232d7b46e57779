"""Deployments with given policies, and requests to put to them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.adapters.configuration.deployment_folder import deployment_of

from cab.adapters.cedar.engine import CedarPolicyEngine
from cab.domain.configured.deployment import Deployment
from cab.ports import PolicyRequest

PLAIN = '@id("plain") permit (principal, action, resource);'
NOON_ON_A_SUNDAY = datetime(2026, 11, 22, 12, 30, tzinfo=UTC)

UPDATE = PolicyRequest(
    tenant="acme",
    subject="subject-1-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    groups=("sales",),
    action="crm.deal.update",
    effect="write",
    connection="crm",
    identifier="deal/0061",
    parameters={"stage": "open", "amount": 5},
    agent="helper",
    trust_zone="internal",
    mode="token",
    chain=("helper",),
    task_comparison="within",
    task_present=True,
    trigger="user_turn",
    auth_age_s=100,
    acr="silver",
    amr=("pwd",),
    now=NOON_ON_A_SUNDAY,
)
LIST = replace(
    UPDATE, action="crm.deal.list", effect="read", identifier="deal/*", parameters={}, task_comparison="no_task"
)


@cache
def _base() -> Deployment:
    with TemporaryDirectory() as folder:
        return deployment_of(Path(folder))


def deployment(*policies: str, candidates: tuple[str, ...] = ()) -> Deployment:
    """The small deployment of the configuration tests with these policy files instead of its own."""
    return replace(
        _base(),
        policies=tuple((f"policies/p{number}.cedar", text) for number, text in enumerate(policies)),
        candidate_policies=tuple(
            (f"policies_candidate/p{number}.cedar", text) for number, text in enumerate(candidates)
        ),
    )


def engine(*policies: str, candidates: tuple[str, ...] = ()) -> CedarPolicyEngine:
    return CedarPolicyEngine(deployment(*policies, candidates=candidates))


def decide(policies: str, request: PolicyRequest = UPDATE, **changes: Any) -> Any:
    return engine(policies).evaluate(replace(request, **changes)).decision
