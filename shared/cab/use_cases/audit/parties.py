"""Who acts and for whom, as every event says it: taken from what was verified."""

from __future__ import annotations

from datetime import UTC, datetime

from cab.domain import audit
from cab.domain.configured.clients import Agent
from cab.protocol.tokens.assertions import Assertion
from cab.use_cases.audit.auditor import Facts


def note_agent(facts: Facts, agent: Agent) -> None:
    facts.client_authenticated = True
    facts.tenant = agent.tenant
    facts.actor = audit.Actor(agent_id=agent.client_id, client_id=agent.client_id, trust_zone=agent.trust_zone)


def note_assertion(facts: Facts, assertion: Assertion, agent: Agent) -> None:
    facts.txn = assertion.txn
    # An ID-JAG is read as an assertion whose front end is the agent: nothing was minted for it.
    facts.assertion_jti = None if assertion.front_end == assertion.may_act else assertion.jti
    if assertion.auth_time is not None:
        facts.login = audit.LoginFacts(auth_time=datetime.fromtimestamp(assertion.auth_time, UTC), acr=assertion.acr)
    facts.subject = audit.Subject(
        key=assertion.subject,
        idp_issuer=assertion.idp_issuer,
        groups=list(assertion.groups),
        groups_unknown=assertion.groups_unknown,
    )
    facts.actor = audit.Actor(
        agent_id=agent.client_id,
        chain=list(assertion.chain),
        client_id=assertion.front_end,
        trust_zone=agent.trust_zone,
    )
