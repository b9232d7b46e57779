"""The demo organisation decides as the public contract says."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cab.adapters.cedar.engine import CedarPolicyEngine
from cab.adapters.configuration.loader import inspect_folder
from cab.domain.configured.actions import Effect
from cab.domain.configured.connections import GrantKind, RotationClass
from cab.domain.configured.deployment import Deployment
from cab.domain.decisions import Confirm, Decision, Deny, Permit
from cab.domain.errors import Reason
from cab.ports import PolicyRequest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "acme"
ENVIRONMENT = {
    "CAB_ORIGIN": "http://127.0.0.1:8080",
    "ACME_IDP_ORIGIN": "http://127.0.0.1:8081",
    "ACME_CRM_ORIGIN": "http://127.0.0.1:8082",
    "ACME_TRACKER_ORIGIN": "http://127.0.0.1:8083",
    "ACME_WAREHOUSE_ORIGIN": "http://127.0.0.1:8084",
}
INTENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "crm.opportunity.list": ("opportunity/*", {}),
    "crm.opportunity.read": ("opportunity/0061", {}),
    "crm.opportunity.update": ("opportunity/0061", {"stage": "won", "amount_cents": 120_000}),
    "crm.opportunity.delete": ("opportunity/0061", {}),
    "crm.note.create": ("opportunity/0061", {"text": "Called."}),
    "tracker.task.list": ("task/*", {}),
    "tracker.task.create": ("task/*", {"title": "Call back", "priority": "normal"}),
    "warehouse.query.run": ("query/revenue_by_quarter", {}),
}
READS = {"crm.opportunity.list", "crm.opportunity.read", "tracker.task.list", "warehouse.query.run"}


@pytest.fixture(scope="module")
def acme() -> Deployment:
    inspection = inspect_folder(FOLDER, ENVIRONMENT)
    # Stories 1 and 2 show what tokens can do, and `validate` says what they cannot: story 3 is the remedy.
    beaten = {problem.message.partition(" can be sidestepped")[0] for problem in inspection.problems}
    assert beaten == {"sales-task-create-high", "sales-opportunity-update-large"}
    assert {problem.severity for problem in inspection.problems} == {"warning"}
    assert inspection.deployment is not None
    return inspection.deployment


@pytest.fixture(scope="module")
def engine(acme: Deployment) -> CedarPolicyEngine:
    return CedarPolicyEngine(acme)


def request(action: str, *, group: str = "sales", **changes: Any) -> PolicyRequest:
    identifier, parameters = INTENTS[action]
    asked = PolicyRequest(
        tenant="acme",
        subject="opaque",
        groups=(group,),
        action=action,
        effect="",
        connection=action.partition(".")[0],
        identifier=identifier,
        parameters=parameters,
        agent="sales-assistant",
        trust_zone="internal",
        mode="token",
        chain=(),
        task_comparison="within",
        task_present=True,
        trigger="user_turn",
        auth_age_s=60,
        acr=None,
        amr=(),
        now=datetime(2026, 11, 21, 9, 0, tzinfo=UTC),
    )
    return replace(asked, **changes)


def decision(engine: CedarPolicyEngine, action: str, **changes: Any) -> Decision:
    return engine.evaluate(request(action, **changes)).decision


def test_the_catalog_has_exactly_the_actions_of_the_contract(acme: Deployment) -> None:
    catalog = {action.id: action for connection in acme.connections for action in connection.actions}
    assert set(catalog) == set(INTENTS)
    assert {name for name, action in catalog.items() if action.effect is Effect.READ} == READS
    for name, (identifier, parameters) in INTENTS.items():
        assert catalog[name].accepts_identifier(identifier)
        assert all(catalog[name].parameters[key].problem(value) is None for key, value in parameters.items())


def test_connections_rotate_as_their_services_do(acme: Deployment) -> None:
    rotation = {
        connection.id: acme.provider_of(connection).rotation.rotation_class
        for connection in acme.connections
        if connection.grant_kind is GrantKind.AUTHORIZATION_CODE
    }
    assert rotation == {"crm": RotationClass.STRICT, "tracker": RotationClass.LEEWAY}
    assert acme.connection_by_id["warehouse"].grant_kind is GrantKind.BROKER_JWT


@pytest.mark.parametrize("action", sorted(READS))
@pytest.mark.parametrize("comparison", ["within", "no_task"])
def test_sales_reads_everywhere(engine: CedarPolicyEngine, action: str, comparison: str) -> None:
    assert decision(engine, action, task_comparison=comparison, trigger="unknown") == Permit(("sales-read",))


def test_a_task_of_high_priority_needs_the_user_and_others_do_not(engine: CedarPolicyEngine) -> None:
    high = {"title": "Call back", "priority": "high"}
    assert decision(engine, "tracker.task.create") == Permit(("sales-task-create",))
    assert isinstance(decision(engine, "tracker.task.create", parameters=high), Confirm)


def test_an_update_needs_the_user_only_above_the_amount(engine: CedarPolicyEngine) -> None:
    assert isinstance(decision(engine, "crm.opportunity.update"), Permit)
    assert isinstance(decision(engine, "crm.opportunity.update", parameters={}), Permit)
    assert isinstance(decision(engine, "crm.opportunity.update", parameters={"amount_cents": 5_000_000}), Permit)
    assert isinstance(decision(engine, "crm.opportunity.update", parameters={"amount_cents": 5_000_001}), Confirm)


def test_deleting_always_needs_the_user(engine: CedarPolicyEngine) -> None:
    assert isinstance(decision(engine, "crm.opportunity.delete"), Confirm)


@pytest.mark.parametrize("action", sorted(set(INTENTS) - READS))
@pytest.mark.parametrize("comparison", ["no_task", "action_outside", "identifier_outside", "other_task"])
def test_no_change_outside_its_task_is_even_asked_about(
    engine: CedarPolicyEngine, action: str, comparison: str
) -> None:
    assert decision(engine, action, task_comparison=comparison) == Deny(Reason.POLICY_DENIED)


@pytest.mark.parametrize("action", sorted(set(INTENTS) - READS))
@pytest.mark.parametrize("changes", [{"trigger": "schedule"}, {"trigger": "event"}, {"trust_zone": "untrusted"}])
def test_guardrails_close_every_change(engine: CedarPolicyEngine, action: str, changes: dict[str, str]) -> None:
    refused = decision(engine, action, **changes)
    assert isinstance(refused, Deny)
    assert refused.rules


def test_ops_looks_and_changes_nothing(engine: CedarPolicyEngine) -> None:
    permitted = {action for action in INTENTS if isinstance(decision(engine, action, group="ops"), Permit)}
    assert permitted == {"crm.opportunity.list", "crm.opportunity.read", "tracker.task.list"}


@pytest.mark.parametrize("action", sorted(INTENTS))
def test_who_is_in_no_group_may_nothing(engine: CedarPolicyEngine, action: str) -> None:
    assert isinstance(decision(engine, action, group="visitors"), Deny)
