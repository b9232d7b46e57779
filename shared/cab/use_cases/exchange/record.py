"""What an exchange leaves in the audit: facts taken from what was verified, judged and issued, as far as each came."""

from __future__ import annotations

from typing import Any, Final

import orjson

from cab.domain import audit
from cab.domain.configured.actions import ParameterValue
from cab.domain.decisions import Confirm, Permit, differ
from cab.domain.identifiers import digest
from cab.domain.intents import Intent, TaskComparison
from cab.protocol.authorization_details import details_hash, parameters_digest, task_digest
from cab.protocol.tokens.assertions import Assertion
from cab.use_cases.audit.auditor import Facts
from cab.use_cases.exchange.decide import Judgement
from cab.use_cases.exchange.issue import Issued

LONGEST_RECORDED: Final = 1024  # characters of one parameter


def note_judgement(facts: Facts, judgement: Judgement, *, policy_version: str) -> None:
    """What was asked and how it was judged, up to where the checks came."""
    case, declared, intent = judgement.case, judgement.declared, judgement.intent
    connection = judgement.connection
    if connection is None:
        return
    facts.tool = audit.Tool(
        connection=connection.id,
        provider=connection.provider,
        action=declared.actions[0] if declared else None,
        mode=case.mode,
    )
    if declared is None:
        return
    if intent is None:  # not in the catalog, or not as the catalog has it: what was asked for is known all the same
        facts.intent = audit.IntentFacts(identifier=declared.identifier, task_id=declared.task_id)
        return
    facts.tool.effect = intent.action.effect.value
    facts.intent = _intent(intent, case.assertion)
    requested = case.asked.scope.split() if case.asked.scope else []
    facts.scopes = audit.Scopes(requested=requested, granted=[])
    decision = judgement.decision
    if decision is None:
        return
    facts.decision = (
        "permit" if isinstance(decision, Permit) else "confirm" if isinstance(decision, Confirm) else "deny"
    )
    facts.policy = audit.PolicyFacts(
        version=policy_version,
        determining_rules=list(decision.rules),
        **_shadow(judgement),
    )
    facts.task = audit.TaskFacts(
        bounds_digest=task_digest(case.assertion.task) if case.assertion.task else None,
        within=judgement.comparison is TaskComparison.WITHIN,
        comparison=judgement.comparison.value if judgement.comparison else None,
    )


def note_issued(facts: Facts, issued: Issued) -> None:
    facts.decision = "permit"
    facts.token = audit.TokenFacts(
        kind="broker_jwt" if issued.jti else "downstream",
        jti=issued.jti,
        sha256=issued.sha256,
        expires_at=issued.expires_at,
    )
    facts.scopes = audit.Scopes(
        requested=facts.scopes.requested if facts.scopes else [],
        granted=list(issued.scopes),
        narrowed=issued.narrowed,
    )
    if issued.grant_id is not None:
        facts.grant = audit.GrantFacts(id=issued.grant_id, seq=issued.grant_seq, secret_version=issued.secret_version)


def _shadow(judgement: Judgement) -> dict[str, Any]:
    if judgement.shadow is None or judgement.verdict is None:
        return {}
    return {
        "shadow_decision": type(judgement.shadow).__name__.lower(),
        "shadow_version": judgement.shadow_version,
        "shadow_differs": differ(judgement.shadow, judgement.verdict),
    }


def _intent(intent: Intent, assertion: Assertion) -> audit.IntentFacts:
    """What was declared, redacted as the catalog says; the digest covers all of it."""
    action = intent.action
    shown = {
        name: "[redacted]" if action.parameters[name].redact else _recorded(value)
        for name, value in intent.parameters.items()
    }
    return audit.IntentFacts(
        identifier=intent.identifier,
        parameters_digest=parameters_digest(intent.parameters),
        parameters=orjson.dumps(shown).decode(),
        reason=intent.reason,
        trigger=assertion.task.trigger if assertion.task else None,
        task_id=intent.task_id,
        intent_hash=details_hash([intent.as_authorization_detail()]),
    )


def _recorded(value: ParameterValue) -> object:
    """A value, or of a long one its digest and length: what people wrote at length is not kept twice."""
    texts = [value] if isinstance(value, str) else list(value) if isinstance(value, tuple) else []
    length = sum(map(len, texts))
    if length <= LONGEST_RECORDED:
        return value
    return {"digest": digest("cab-text", *texts), "characters": length}
