"""What an exchange asks for is read strictly, without any store or clock."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.adapters.configuration.deployment_folder import deployment_of

from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason
from cab.protocol.tokens.assertions import Assertion
from cab.use_cases.exchange.request import (
    Asked,
    check_may_act,
    check_mode,
    check_tenant,
    default_intent,
    find_target,
    scopes_for,
)

CRM = "https://crm.test"
ASSERTION = Assertion(
    issuer="https://cab.test/edge",
    subject="subject-alice",
    tenant="acme",
    idp_issuer="https://idp.test",
    idp_subject_hash="hash",
    groups=("sales",),
    front_end="web",
    may_act="helper",
    txn="txn",
    jti="jti",
    issued_at=datetime(2026, 11, 21, 12, tzinfo=UTC),
    expires_at=datetime(2026, 11, 21, 12, 5, tzinfo=UTC),
)


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return deployment_of(tmp_path)


def test_an_assertion_of_the_agents_own_tenant_is_accepted(deployment: Deployment) -> None:
    check_tenant(ASSERTION, deployment.agent_by_id["helper"])


def test_an_assertion_of_another_tenant_is_refused_as_one_of_nobody(deployment: Deployment) -> None:
    with pytest.raises(BrokerError) as refused:
        check_tenant(replace(ASSERTION, tenant="globex"), deployment.agent_by_id["helper"])
    assert refused.value.reason is Reason.SUBJECT_TOKEN_INVALID


def test_only_the_agent_that_may_act_names_may_use_the_assertion(deployment: Deployment) -> None:
    check_may_act(ASSERTION, deployment.agent_by_id["helper"])
    with pytest.raises(BrokerError) as refused:
        check_may_act(ASSERTION, deployment.agent_by_id["assistant"])
    assert refused.value.reason is Reason.MAY_ACT_VIOLATED


@pytest.mark.parametrize(("mode", "calls"), [("call", False), ("token", True)])
def test_an_agent_gets_tokens_or_calls_as_its_mode_says(deployment: Deployment, mode: str, calls: bool) -> None:
    helper = deployment.agent_by_id["helper"]
    for allowed in (mode, "both"):
        check_mode(helper.model_copy(update={"mode": allowed}), calls=not calls)
    check_mode(helper.model_copy(update={"mode": "both"}), calls=calls)
    with pytest.raises(BrokerError) as refused:
        check_mode(helper.model_copy(update={"mode": mode}), calls=calls)
    assert refused.value.reason is Reason.GRANT_TYPE_NOT_ALLOWED


@pytest.mark.parametrize("asked", [Asked(resource=CRM), Asked(audience="crm")])
def test_a_target_is_found_by_its_resource_or_by_its_audience(asked: Asked, deployment: Deployment) -> None:
    assert find_target(asked, ASSERTION, deployment).id == "crm"


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (Asked(), Reason.TARGET_MISSING),
        (Asked(resource=CRM, audience="crm"), Reason.TARGET_REPEATED),
        (Asked(resource=f"{CRM}/"), Reason.TARGET_UNKNOWN),
        (Asked(audience=""), Reason.TARGET_UNKNOWN),
    ],
)
def test_anything_but_one_registered_target_is_refused(asked: Asked, reason: Reason, deployment: Deployment) -> None:
    with pytest.raises(BrokerError) as refused:
        find_target(asked, ASSERTION, deployment)
    assert refused.value.reason is reason


def test_a_target_of_another_tenant_is_as_unknown_as_one_that_is_not_there(deployment: Deployment) -> None:
    with pytest.raises(BrokerError) as refused:
        find_target(Asked(audience="crm"), replace(ASSERTION, tenant="globex"), deployment)
    assert refused.value.reason is Reason.TARGET_UNKNOWN


def test_a_default_intent_applies_to_its_own_target_and_scope_only(deployment: Deployment) -> None:
    crm = deployment.connection_by_id["crm"]
    assistant = deployment.agent_by_id["assistant"]
    found = default_intent(assistant, crm, "deal.read")
    assert found is not None
    assert (found.actions, found.locations, found.identifier) == (("crm.deal.list",), (CRM,), "deal/*")
    assert default_intent(assistant, crm, None) is None
    assert default_intent(deployment.agent_by_id["helper"], crm, "deal.read") is None


def test_without_a_scope_parameter_the_actions_minimal_scopes_are_granted(deployment: Deployment) -> None:
    action = deployment.connection_by_id["crm"].action_by_id["crm.deal.list"]
    assert scopes_for(None, action) == ("deal.read",)
    assert scopes_for("deal.read", action) == ("deal.read",)


@pytest.mark.parametrize("scope", ["deal.write", "deal.read deal.write", "deal.read deal.read", "", " "])
def test_a_scope_beyond_the_action_or_a_repeated_one_is_refused(scope: str, deployment: Deployment) -> None:
    action = deployment.connection_by_id["crm"].action_by_id["crm.deal.list"]
    with pytest.raises(BrokerError) as refused:
        scopes_for(scope, action)
    assert refused.value.reason is Reason.SCOPE_NOT_GRANTABLE
