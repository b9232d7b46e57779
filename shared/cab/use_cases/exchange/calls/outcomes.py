"""`POST /oauth2/outcomes`: what came of a token, by the agent that was given it, or by the resource that it was used at.

Evidence of less weight than our own; a resource's weighs more than an agent's, since it tells of itself what it did.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from cab.domain import audit
from cab.domain.configured.clients import Agent
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason, invalid_parameter
from cab.domain.identifiers import digest, token_sha256
from cab.ports import Clock, VerificationKeys
from cab.protocol.authorization_details import details_hash
from cab.protocol.jose import jws
from cab.protocol.tokens import access_tokens
from cab.stores.calls import ReportedOutcomes
from cab.stores.issued_tokens import IssuedToken, IssuedTokens
from cab.use_cases.audit.auditor import Facts
from cab.use_cases.audit.parties import note_agent
from cab.use_cases.identity.authenticate_client import ClientAuthenticator, Credentials, Spending, after_spending
from cab.use_cases.identity.verify_token import verify_token
from cab.values import immutable

REPORTED_UNTIL: Final = timedelta(hours=1)  # after the token's end
ReportedOutcome = Literal["done", "rejected", "failed", "not_used", "unknown"]


@immutable
class OutcomeReport:
    """About one hand-out. A JWT of ours is named by itself (`token`), since nothing is kept of it; any other by its hash.

    The same token may be handed out for several intents: `txn` and `intent_hash` say which is meant, else the newest is.
    """

    outcome: ReportedOutcome
    token_sha256: str | None = None
    token: str | None = None
    txn: str | None = None
    intent_hash: str | None = None
    upstream_status: int | None = None
    upstream_request_id: str | None = None
    request_digest: str | None = None

    def __repr__(self) -> str:
        return f"OutcomeReport({self.outcome!r})"


@immutable
class _HandOut:
    sha256: str
    client_id: str
    subject: str | None
    txn: str
    intent_hash: str
    detail: dict[str, Any] | None
    connection: str | None
    ends_at: datetime
    jti: str | None = None
    grant_id: str | None = None
    remembered: IssuedToken | None = None
    by_resource: bool = False


class ReportOutcome:
    def __init__(
        self,
        deployment: Deployment,
        authenticator: ClientAuthenticator[Agent],
        keys: VerificationKeys,
        issued_tokens: IssuedTokens,
        reported: ReportedOutcomes,
        clock: Clock,
    ) -> None:
        self._deployment = deployment
        self._authenticator = authenticator
        self._keys = keys
        self._issued_tokens = issued_tokens
        self._reported = reported
        self._clock = clock
        self._audiences = frozenset(connection.resource for connection in deployment.connections)

    async def __call__(self, report: OutcomeReport, credentials: Credentials, facts: Facts) -> None:
        """Put the report on record; the very same report again changes nothing and is no error.

        An agent's word on a hand-out is taken once. A resource may see a token more than once: each of its words counts.

        Raises: BrokerError CLIENT_AUTHENTICATION_FAILED, PARAMETER_INVALID (also for a token that was neither handed to this
        client nor made for a resource of its own, or ended over an hour ago), OUTCOME_ALREADY_REPORTED; Unavailable.
        """
        agent, spending = await self._authenticator.authenticate(credentials)
        note_agent(facts, agent)
        await after_spending(spending, self._report(report, agent, spending, facts))

    async def _report(self, report: OutcomeReport, agent: Agent, spending: Spending, facts: Facts) -> None:
        if (report.token is None) == (report.token_sha256 is None):
            raise invalid_parameter("token_sha256", "Give one of token_sha256 and token.")
        if report.token is not None:
            hand_out = await self._broker_jwt(report.token, agent)
        else:
            hand_out = await self._downstream(report, agent)
        if hand_out is None:
            name = "token" if report.token_sha256 is None else "token_sha256"
            raise invalid_parameter(name, "No such token was handed to this client, or made for its resource, of late.")
        if hand_out.by_resource and report.outcome == "not_used":
            raise invalid_parameter("outcome", "A resource cannot know that a token was not used.")
        await spending  # a replay must not have the first word
        _note(facts, report, hand_out, agent, self._deployment)
        said = digest(*(str(part) for part in (report.outcome, report.upstream_status, report.request_digest)))
        if not hand_out.by_resource:
            key = digest(hand_out.sha256, agent.client_id, hand_out.txn, hand_out.intent_hash)
            first = await self._reported.first(key, said, until=hand_out.ends_at + REPORTED_UNTIL)
            if first != said:
                raise BrokerError(Reason.OUTCOME_ALREADY_REPORTED, "Another outcome was reported for this token.")
        if hand_out.remembered is not None:  # for the user's own page
            told = replace(hand_out.remembered, outcome=report.outcome)
            facts.beside.append(self._issued_tokens.write(hand_out.sha256, told))

    async def _downstream(self, report: OutcomeReport, agent: Agent) -> _HandOut | None:
        sha256 = report.token_sha256 or ""
        theirs = [
            issued
            for issued in await self._issued_tokens.find(sha256, now=self._clock.now() - REPORTED_UNTIL)
            if (issued.tenant, issued.client_id) == (agent.tenant, agent.client_id) and not issued.by_broker
        ]
        for issued in theirs:
            intent_hash = details_hash(issued.details)
            if report.intent_hash in (None, intent_hash) and report.txn in (None, issued.txn):
                return _hand_out(sha256, issued, intent_hash, issued.details[0], remembered=issued)
        # Of several of a kind only the first may be recorded: that the token was theirs is known, and their word for when and for what.
        first = next((issued for issued in theirs if not self._is_recorded_each_time(issued)), None)
        if first is None:
            return None
        meant = replace(first, txn=report.txn or first.txn)
        return _hand_out(sha256, meant, report.intent_hash or details_hash(first.details), None, remembered=None)

    def _is_recorded_each_time(self, issued: IssuedToken) -> bool:
        connection = self._deployment.connection_by_id.get(issued.connection)
        action = connection.action_by_id.get(issued.details[0]["actions"][0]) if connection else None
        return self._deployment.records_each(connection, action)

    async def _broker_jwt(self, token: str, agent: Agent) -> _HandOut | None:
        """Also for a while after its end: what is checked is that we made it, and for whom."""
        broker, now = self._deployment.broker, self._clock.now()
        rules = access_tokens.rules(
            broker.sts_issuer, self._audiences, max_life=timedelta(seconds=broker.lifetimes.token_s)
        )
        try:
            unverified = jws.parse(token)
            ends_at = unverified.claims.get("exp")
            if isinstance(ends_at, bool) or not isinstance(ends_at, int):
                return None
            if now.timestamp() > ends_at + REPORTED_UNTIL.total_seconds():
                return None
            last = datetime.fromtimestamp(min(ends_at, int(now.timestamp()) + 1) - 1, UTC)
            claims = (await verify_token(unverified, rules, self._keys, now=last)).claims
        except jws.TokenRejected:
            return None
        ended = datetime.fromtimestamp(ends_at, UTC)
        is_holder, is_resource = claims["client_id"] == agent.client_id, claims["aud"] in agent.reports_as
        if claims["tenant"] != agent.tenant or not (is_holder or is_resource):
            return None
        connection = self._deployment.connection_by_resource.get(claims["aud"])
        return _HandOut(
            token_sha256(token),
            claims["client_id"],
            connection.subject_of(claims["sub"]) if connection else claims["sub"],
            claims["txn"],
            details_hash(claims["authorization_details"]),
            claims["authorization_details"][0],
            connection.id if connection else None,
            ended,
            jti=claims["jti"],
            by_resource=not is_holder,
        )


def _hand_out(
    sha256: str, issued: IssuedToken, intent_hash: str, detail: dict[str, Any] | None, *, remembered: IssuedToken | None
) -> _HandOut:
    return _HandOut(
        sha256,
        issued.client_id,
        issued.subject,
        issued.txn,
        intent_hash,
        detail,
        issued.connection,
        issued.expires_at,
        grant_id=issued.grant_id,
        remembered=remembered,
    )


def _note(facts: Facts, report: OutcomeReport, hand_out: _HandOut, reporter: Agent, deployment: Deployment) -> None:
    detail = hand_out.detail or {}
    facts.txn = hand_out.txn
    facts.subject = audit.Subject(key=hand_out.subject) if hand_out.subject else None
    if hand_out.by_resource:  # about the agent that had the token, by another client
        holder = deployment.agent_by_id.get(hand_out.client_id)
        zone = holder.trust_zone if holder else None
        facts.actor = audit.Actor(agent_id=hand_out.client_id, client_id=reporter.client_id, trust_zone=zone)
    connection = deployment.connection_by_id.get(hand_out.connection or "")
    action_id = detail["actions"][0] if detail else None
    action = connection.action_by_id.get(action_id) if connection and action_id else None
    facts.tool = audit.Tool(
        connection=hand_out.connection,
        provider=connection.provider if connection else None,
        action=action_id,
        effect=action.effect.value if action else None,
        mode="token",
    )
    facts.intent = audit.IntentFacts(
        identifier=detail.get("identifier"),
        task_id=detail.get("task_id"),
        intent_hash=hand_out.intent_hash,
    )
    facts.grant = audit.GrantFacts(id=hand_out.grant_id) if hand_out.grant_id else None
    facts.token = audit.TokenFacts(
        kind="broker_jwt" if hand_out.jti else "downstream", jti=hand_out.jti, sha256=hand_out.sha256
    )
    facts.observed_by = "resource" if hand_out.by_resource else "agent"
    facts.call = audit.CallFacts(
        outcome=report.outcome,
        upstream_status=report.upstream_status,
        upstream_request_id=report.upstream_request_id,
        request_digest=report.request_digest,
    )
