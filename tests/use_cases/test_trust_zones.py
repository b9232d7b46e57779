"""Trust zones: what a zone forbids no agent of it gets, at no connection of it, in neither mode, and is shown to nobody."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from tests.adapters.cedar.policy_cases import UPDATE
from tests.adapters.configuration.deployment_folder import AGENTS, BROKER, CONNECTIONS, check, deployment_of, replaced
from tests.support.world import WAREHOUSE, deployment
from tests.use_cases.test_assess_intent import ASSERTION, Policies

from cab.adapters.cedar.checks import check_policies
from cab.adapters.cedar.engine import CedarPolicyEngine
from cab.adapters.configuration.problems import errors_among
from cab.domain.calls.tools import tools_of
from cab.domain.configured.clients import Mode
from cab.domain.configured.deployment import Deployment, TrustZone
from cab.domain.decisions import Deny, Permit
from cab.domain.errors import Reason
from cab.domain.intents import DeclaredIntent
from cab.use_cases.exchange.decide import Case, Judgement, Stage, decide, decide_again
from cab.use_cases.exchange.request import Asked, CallAsked

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
HOST = "warehouse.test"
CONFIGURED = deployment()
DETAIL = {"type": "cab_action", "actions": ["warehouse.query.run"], "locations": [WAREHOUSE], "identifier": "query/q1"}
CALL = CallAsked("c-1", ("tools.read",), is_chosen=False)


def in_zone(zone: TrustZone, *, of: str) -> Deployment:
    """The test world with every agent, or the warehouse, in `zone`."""
    known = (*CONFIGURED.broker.trust_zones, zone)
    agents = CONFIGURED.agents
    at = {"warehouse": f"https://{HOST}/v1"}
    connections = tuple(one.model_copy(update={"api_base": at.get(one.id)}) for one in CONFIGURED.connections)
    if of == "agent":
        agents = tuple(agent.model_copy(update={"trust_zone": zone.id}) for agent in agents)
    else:
        connections = tuple(one.model_copy(update={"trust_zone": zone.id}) for one in connections)
    broker = CONFIGURED.broker.model_copy(update={"trust_zones": known})
    return replace(CONFIGURED, broker=broker, agents=agents, connections=connections)


def decided(configured: Deployment, *, calls: bool) -> Judgement:
    agent = configured.agent_by_id["caller"].model_copy(update={"mode": "both"})
    assertion = replace(ASSERTION, may_act=agent.client_id, expires_at=NOW + timedelta(seconds=60))
    asked = Asked(resource=WAREHOUSE, details=orjson.dumps([DETAIL]).decode())
    case = Case(agent, assertion, asked, NOW, call=CALL if calls else None)
    return decide(case, configured, Policies(Permit()))


@pytest.mark.parametrize("of", ["agent", "connection"])
@pytest.mark.parametrize("calls", [True, False], ids=["call", "token"])
@pytest.mark.parametrize("mode", ["token", "call", "both"])
def test_a_zone_of_one_mode_refuses_the_other_whatever_the_agents_entry_says(mode: Mode, calls: bool, of: str) -> None:
    found = decided(in_zone(TrustZone(id="bounded", mode=mode), of=of), calls=calls)
    if mode in ("both", "call" if calls else "token"):
        assert (found.refusal, found.decision) == (None, Permit())
    else:
        assert found.refusal is not None
        assert (found.refusal.reason, found.trail[-1]) == (Reason.TARGET_NOT_ALLOWED, Stage.MODE)


@pytest.mark.parametrize("of", ["agent", "connection"])
@pytest.mark.parametrize("calls", [True, False], ids=["call", "token"])
def test_a_zone_with_hosts_lets_nobody_reach_another_one(calls: bool, of: str) -> None:
    assert decided(in_zone(TrustZone(id="bounded", hosts=(HOST,)), of=of), calls=calls).refusal is None
    for others in (("other.test",), (f"sub.{HOST}",), (HOST + ".evil.test",)):
        refusal = decided(in_zone(TrustZone(id="bounded", hosts=others), of=of), calls=calls).refusal
        assert refusal is not None
        assert refusal.reason is Reason.TARGET_NOT_ALLOWED


def test_a_request_that_waited_is_held_to_the_zone_as_it_is_now() -> None:
    configured = in_zone(TrustZone(id="bounded", mode="token"), of="connection")
    agent = configured.agent_by_id["caller"]
    declared = DeclaredIntent.model_validate(DETAIL)
    case = Case(agent, replace(ASSERTION, may_act=agent.client_id), Asked(), NOW, call=CALL)
    connection = configured.connection_by_id["warehouse"]
    refusal = decide_again(case, connection, declared, configured, Policies(Permit())).refusal
    assert refusal is not None
    assert refusal.reason is Reason.TARGET_NOT_ALLOWED


def names(configured: Deployment, *, callable_only: bool = True) -> set[str]:
    agent = configured.agent_by_id["caller"]
    scopes = ("tools.read", "tools.write", "tools.destructive")
    return {tool.name for tool in tools_of(configured, agent, "acme", scopes, None, callable_only=callable_only)}


@pytest.mark.parametrize("of", ["agent", "connection"])
def test_tools_that_a_zone_forbids_are_not_listed(of: str) -> None:
    assert "warehouse_query_run" in names(in_zone(TrustZone(id="bounded", mode="call"), of=of))
    assert names(in_zone(TrustZone(id="bounded", mode="token"), of=of)) == set()
    only = names(in_zone(TrustZone(id="bounded", hosts=(HOST,)), of="agent"))
    assert only
    assert all(name.startswith("warehouse") for name in only)


def test_policies_see_the_zone_of_the_connection(tmp_path: Path) -> None:
    broker = replaced(BROKER, "tenants:", "trust_zones: [internal, payments]\ntenants:")
    connections = replaced(CONNECTIONS, "tenants: [acme]", "tenants: [acme]\n    trust_zone: payments")
    rule = '@id("a") permit (principal, action, resource) when { resource.trust_zone == "payments" };'
    inside = deployment_of(tmp_path, broker=broker, connections=connections, policies__sales=rule)
    assert isinstance(CedarPolicyEngine(inside).evaluate(UPDATE).decision, Permit)
    outside = replace(
        inside, connections=tuple(one.model_copy(update={"trust_zone": "internal"}) for one in inside.connections)
    )
    assert errors_among(check_policies(outside, outside.policies)[1]) == []
    assert isinstance(CedarPolicyEngine(outside).evaluate(UPDATE).decision, Deny)


def test_a_rule_about_a_zone_that_nobody_declared_is_a_mistake(tmp_path: Path) -> None:
    rule = '@id("a") forbid (principal, action, resource) when { resource.trust_zone == "payments" };'
    problems = check(tmp_path, policies__sales=rule).problems
    assert "a: resource.trust_zone is never `payments`" in [one.message for one in problems]


def test_a_word_alone_bounds_nothing() -> None:
    zone = CONFIGURED.zone_by_id["partner"]
    assert (zone.mode, zone.hosts) == ("both", ())


def test_a_connection_outside_the_hosts_of_its_zone_is_a_mistake(tmp_path: Path) -> None:
    broker = replaced(BROKER, "tenants:", "trust_zones: [internal, {id: own, hosts: [crm.corp.test]}]\ntenants:")
    connections = replaced(CONNECTIONS, "tenants: [acme]", "tenants: [acme]\n    trust_zone: own")
    found = {
        (one.file, one.message, one.severity)
        for one in check(tmp_path, broker=broker, connections=connections).problems
    }
    assert ("connections.yaml", "`crm.test` is not a host of trust zone `own`", "error") in found
    kept = replaced(broker, "crm.corp.test", "crm.test")
    (tmp_path / "kept").mkdir()
    assert check(tmp_path / "kept", broker=kept, connections=connections).problems == ()


def test_a_connection_in_a_zone_that_nobody_declared_is_a_mistake(tmp_path: Path) -> None:
    connections = replaced(CONNECTIONS, "tenants: [acme]", "tenants: [acme]\n    trust_zone: interal")
    [problem] = check(tmp_path, connections=connections).problems
    assert (problem.message, problem.severity) == ("trust zone `interal` is not declared", "error")


def test_a_host_that_is_not_known_here_is_no_mistake(tmp_path: Path) -> None:
    """`cab config validate` runs where the variables of the deployment have no values."""
    broker = replaced(BROKER, "tenants:", "trust_zones: [{id: internal, hosts: [crm.test]}]\ntenants:")
    connections = replaced(CONNECTIONS, "tenants: [acme]", "tenants: [acme]\n    trust_zone: internal")
    agents = replaced(AGENTS, 'introspects: ["https://crm.test"]', "effects: [read, write]")
    problems = check(tmp_path, environment={}, broker=broker, connections=connections, agents=agents).problems
    assert not [one for one in problems if "zone" in one.message]
