"""A person's decision on one pending action: shown complete, made once, by its own user, after a fresh login.

Security design X7 to X10: the approval is bound to the exact canonical intent, and an agent can reach none of this.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from cab.domain import audit
from cab.domain.accounts import account_behind
from cab.domain.calls.rendering import RenderedCall, render
from cab.domain.configured.actions import Action
from cab.domain.configured.clients import Agent
from cab.domain.configured.connections import Connection
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason
from cab.domain.grants import ENDED, grant_id
from cab.domain.intents import DeclaredIntent, check_against_catalog
from cab.ports import AuditLog, Clock
from cab.protocol.authorization_details import details_hash, parameters_digest, validate_detail
from cab.stores.approvals import ApprovalDecision, ApprovalDecisions, ApprovalRequest, ApprovalRequests
from cab.stores.grants import Grants
from cab.stores.sessions import Session
from cab.use_cases.audit.auditor import Facts
from cab.use_cases.people.login import LoginDemand
from cab.values import immutable

KEPT_AFTER: Final = timedelta(hours=1)  # a decision outlives everything that may ask for it


class ApprovalStanding(StrEnum):
    WAITING = "waiting"
    APPROVED = "approved"
    VOID = "void"  # approved, with another upstream account than is connected now
    REFUSED = "refused"
    EXPIRED = "expired"


@immutable
class Stored:
    """What there is under an approval's id, whoever asks: both None when nothing is."""

    request: ApprovalRequest | None
    decision: ApprovalDecision | None


@immutable
class ApprovalView:
    """Everything the page shows. `agent`, `connection` and `action` are None when the configuration no longer has them.

    `account` names the upstream account that would act, `account_shown` in the words of people; `account_changed` says that it is
    another one than on the page that was answered, which therefore decided nothing.
    """

    request: ApprovalRequest
    standing: ApprovalStanding
    agent: Agent | None
    connection: Connection | None
    action: Action | None
    account: str
    account_shown: str | None
    account_changed: bool = False
    sent: RenderedCall | None = None  # what the broker sends if the person agrees, where it makes the call itself


class DecideConfirmation:
    def __init__(
        self,
        deployment: Deployment,
        *,
        requests: ApprovalRequests,
        decisions: ApprovalDecisions,
        grants: Grants,
        audit_log: AuditLog,
        clock: Clock,
    ) -> None:
        self._grants = grants
        self._deployment = deployment
        self._requests = requests
        self._decisions = decisions
        self._audit_log = audit_log
        self._clock = clock
        self._lifetimes = deployment.broker.lifetimes

    def freshness(self) -> LoginDemand:
        """What a login must be at least before it may look at an approval."""
        return LoginDemand(max_age_s=self._lifetimes.fresh_login_s)

    async def look_up(self, approval_id: str) -> Stored:
        """For `view` and `decide`, which say whether a person may see it: it goes beside reading who they are. Raises: Unavailable."""
        request, decision = await asyncio.gather(self._requests.read(approval_id), self._decisions.read(approval_id))
        if request is None and decision is not None:  # spent, or asked again since: as it was shown
            request = decision.request
        return Stored(request, decision)

    async def view(self, session: Session, stored: Stored) -> ApprovalView | LoginDemand:
        """The approval, or the login it needs first. Raises: BrokerError NOT_FOUND, the same for missing and not yours."""
        request = _own_request(session, stored.request)
        return self._demand(session, request) or await self._view(request, stored.decision)

    async def decide(
        self, session: Session, stored: Stored, *, approved: bool, account: str | None, facts: Facts
    ) -> ApprovalView | LoginDemand:
        """Decide once; a second decision changes nothing and gets the first one back. `account` is the one that the page named.

        Raises: BrokerError NOT_FOUND; Unavailable when the decision could not be recorded in audit: it then has no effect.
        """
        request = _own_request(session, stored.request)
        _note(facts, request)
        demand = self._demand(session, request)
        if demand is not None:
            return demand
        before = await self._view(request, stored.decision)
        if before.standing is not ApprovalStanding.WAITING:
            return before
        if account not in (None, before.account):
            return replace(before, account_changed=True)
        now = self._clock.now()
        # The event goes first: were the decision written first, it would be usable while nothing durable says who gave it.
        # The price is an event whose decision failed to be written; nothing was issued then, and the person sees an error
        # and repeats. Each answer is an event of its own: it has another instant, and one id has one.
        event = replace(
            facts.event(
                event_id=_event_id(request, now, approved=approved), outcome=audit.Outcome.EXECUTED, reason=None
            ),
            event_type=audit.EventType.CONFIRMATION_DECIDED,
            decision="permit" if approved else "deny",
            confirmation_id=request.id,
        )
        await self._audit_log.publish(event)
        decision = ApprovalDecision(
            approved=approved, decided_at=now, binding=request.binding.key(), account=before.account
        )
        is_first = await self._decisions.record(
            request,
            decision,
            by=session.subject,
            expires_at=request.waits_until + timedelta(seconds=self._lifetimes.approval_valid_s) + KEPT_AFTER,
        )
        if is_first:
            return replace(before, standing=self._standing(request, decision, before.account))
        # Of two tabs that answered at once, both show the answer that counts.
        return await self._view(request, await self._decisions.read(request.id))

    def _demand(self, session: Session, request: ApprovalRequest) -> LoginDemand | None:
        """The login that is missing: too old, or too weak (RFC 9470)."""
        fresh = timedelta(seconds=self._lifetimes.fresh_login_s)
        stale = self._clock.now() - session.auth_time > fresh
        weak = request.acr_values is not None and session.acr not in request.acr_values.split()
        if not stale and not weak:
            return None
        return LoginDemand(max_age_s=self._lifetimes.fresh_login_s, renew=stale, acr_values=request.acr_values)

    async def _view(self, request: ApprovalRequest, decision: ApprovalDecision | None) -> ApprovalView:
        connection = self._deployment.connection_by_id.get(request.connection)
        action_id = request.detail["actions"][0]
        stored = await self._grants.read(grant_id(request.binding.tenant, request.binding.subject, request.connection))
        grant = stored.grant if stored is not None else None
        account = account_behind(connection, grant)
        action = connection.action_by_id.get(action_id) if connection else None
        return ApprovalView(
            request,
            self._standing(request, decision, account),
            self._deployment.agent_by_id.get(request.binding.agent),
            connection,
            action,
            account,
            grant.account_shown if grant is not None and grant.status not in ENDED else None,
            sent=_sent(request, connection, action) if connection and action else None,
        )

    def _standing(self, request: ApprovalRequest, decision: ApprovalDecision | None, account: str) -> ApprovalStanding:
        if decision is not None and decision.approved:
            return ApprovalStanding.APPROVED if decision.account == account else ApprovalStanding.VOID
        if decision is not None:
            return ApprovalStanding.REFUSED
        return ApprovalStanding.WAITING if self._clock.now() < request.waits_until else ApprovalStanding.EXPIRED


def _own_request(session: Session, request: ApprovalRequest | None) -> ApprovalRequest:
    if (
        request is None
        or request.binding.subject != session.subject
        or request.binding.tenant != session.tenant
        # Shown is the detail, agreed to is the hash: with one that does not fit the other there is nothing to ask.
        or details_hash([request.detail]) != request.binding.intent_hash
    ):
        raise BrokerError(Reason.NOT_FOUND, "There is no such request.")
    return request


def _sent(request: ApprovalRequest, connection: Connection, action: Action) -> RenderedCall | None:
    """The very request that the digest names, None when there is none or today's configuration makes another one of it."""
    if request.request_digest is None:
        return None
    try:
        declared = validate_detail(DeclaredIntent, request.detail)
        intent = check_against_catalog(
            declared, action, connection=connection.id, resource=connection.resource, task=None
        )
        rendered = render(action, connection, intent)
    except BrokerError:
        return None
    return rendered if rendered.digest == request.request_digest else None


def _note(facts: Facts, request: ApprovalRequest) -> None:
    facts.txn = request.txn
    facts.actor = audit.Actor(agent_id=request.binding.agent, client_id=request.front_end)
    facts.tool = audit.Tool(connection=request.connection, action=request.detail["actions"][0])
    facts.intent = audit.IntentFacts(
        identifier=request.detail["identifier"],
        parameters_digest=parameters_digest(request.detail["parameters"]),
        task_id=request.binding.task_id,
        intent_hash=request.binding.intent_hash,
    )
    facts.policy = audit.PolicyFacts(version=request.binding.policy_version)
    if request.request_digest is not None:
        facts.call = audit.CallFacts(request_digest=request.request_digest)


def _event_id(request: ApprovalRequest, now: datetime, *, approved: bool) -> str:
    """A UUIDv7 of the answer's time, with a hash in place of randomness (RFC 9562 section 5.7)."""
    milliseconds = int(now.timestamp() * 1000)
    hashed = hashlib.sha256(f"cab-decision {request.id} {now.isoformat()} {approved}".encode()).digest()
    high, low = int.from_bytes(hashed[:2]) >> 4, int.from_bytes(hashed[2:10]) >> 2
    return str(uuid.UUID(int=milliseconds << 80 | 7 << 76 | high << 64 | 2 << 62 | low))
