"""What a person sees of themselves: connected accounts and their health, what waits for them, what agents did, and the way out."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import datetime
from typing import Final

from cab.domain import audit
from cab.domain.configured.actions import Action
from cab.domain.configured.clients import Agent
from cab.domain.configured.connections import Connection, GrantKind
from cab.domain.configured.deployment import Deployment
from cab.domain.errors import BrokerError, Reason
from cab.domain.grant_transitions import IDLE_NOTICE, may_end_unused
from cab.domain.grants import Grant, grant_id
from cab.ports import Clock, GrantTokens
from cab.stores.approvals import MANY, ApprovalDecisions, ApprovalRequest, ApprovalRequests
from cab.stores.grants import Grants
from cab.stores.issued_tokens import IssuedToken, IssuedTokens
from cab.stores.sessions import Session
from cab.use_cases.audit.auditor import Facts
from cab.use_cases.people.enabled_actions import agents_of, enabled_actions
from cab.values import immutable

RECENT: Final = 30


@immutable
class ConnectionHealth:
    """One connection of the tenant. `grant` is None when the person has not connected it, or when it needs no account.

    `user_known`: where the organisation approves instead of the person, whether it has said who the person is there.
    """

    connection: Connection
    needs_account: bool
    user_known: bool
    grant: Grant | None
    agents: tuple[Agent, ...]
    last_used_at: datetime | None
    has_run_out: bool = False  # it had no refresh token, and its access token has ended
    has_stopped: bool = False  # as `Grant.has_stopped`
    ends_unused_at: datetime | None = None  # when that is soon


@immutable
class Deed:
    """An access that an agent was given in the person's name."""

    at: datetime
    agent: Agent | None
    agent_id: str
    connection: Connection | None
    action: Action | None
    action_id: str
    identifier: str
    by_broker: bool  # the broker made the call, and the agent had no token
    outcome: str | None  # what the agent says came of its token
    stands_for_more: bool  # of several such accesses only the first may be on record


@immutable
class Pending:
    request: ApprovalRequest
    action: Action | None


@immutable
class Questions:
    """What one agent waits for, that which ends soonest first. `more` says that it asked still more than was read."""

    agent: Agent | None
    agent_id: str
    pending: tuple[Pending, ...]
    more: bool


@immutable
class AccountPage:
    connections: tuple[ConnectionHealth, ...]
    questions: tuple[Questions, ...]
    deeds: tuple[Deed, ...]


class MyAccount:
    def __init__(
        self,
        deployment: Deployment,
        *,
        store: Grants,
        requests: ApprovalRequests,
        decisions: ApprovalDecisions,
        issued_tokens: IssuedTokens,
        grant_tokens: GrantTokens,
        clock: Clock,
    ) -> None:
        self._deployment = deployment
        self._store = store
        self._requests = requests
        self._decisions = decisions
        self._issued_tokens = issued_tokens
        self._grant_tokens = grant_tokens
        self._clock = clock

    async def view(self, session: Session) -> AccountPage:
        """Raises: Unavailable."""
        offered = [item for item in self._deployment.connections if session.tenant in item.tenants]
        issued, questions, grants = await asyncio.gather(
            self._issued_tokens.of_user(session.tenant, session.subject, limit=RECENT),
            self._questions(session),
            asyncio.gather(*(self._grant(session, connection) for connection in offered)),
        )
        return AccountPage(
            tuple(
                self._health(session, connection, grant, issued)
                for connection, grant in zip(offered, grants, strict=True)
            ),
            questions,
            tuple(self._deed(token) for token in issued),
        )

    async def disconnect(self, session: Session, connection_id: str, *, txn: str, facts: Facts) -> bool:
        """Revoke here at once, then at the connected system; whether that one confirmed. The record is refresh_grants' event.

        Raises: BrokerError GRANT_MISSING; Unavailable.
        """
        connection = self._deployment.connection_by_id.get(connection_id)
        if connection is None or await self._grant(session, connection) is None:
            raise BrokerError(Reason.GRANT_MISSING, "There is no such connection.")
        name = grant_id(session.tenant, session.subject, connection.id)
        facts.tool = audit.Tool(connection=connection.id, provider=connection.provider)
        facts.grant = audit.GrantFacts(id=name)
        return await self._grant_tokens.revoke(grant_id=name, cause="disconnected by the user", txn=txn)

    async def _grant(self, session: Session, connection: Connection) -> Grant | None:
        if connection.grant_kind is GrantKind.BROKER_JWT:
            return None
        stored = await self._store.read(grant_id(session.tenant, session.subject, connection.id))
        return None if stored is None else stored.grant

    async def _questions(self, session: Session) -> tuple[Questions, ...]:
        """What waits for the person, by agent; whoever asks least comes first, so that no flood pushes anybody down."""
        agents = [agent.client_id for agent in self._deployment.agents if agent.tenant == session.tenant]
        requests = await self._requests.waiting_for(
            session.tenant, session.subject, agents=agents, now=self._clock.now()
        )
        asked = Counter(request.binding.agent for request in requests)
        decided = await asyncio.gather(*(self._decisions.read(request.id) for request in requests))
        waiting: dict[str, list[Pending]] = {}
        for request, decision in zip(requests, decided, strict=True):
            if decision is None:
                waiting.setdefault(request.binding.agent, []).append(Pending(request, self._action(request)))
        return tuple(
            Questions(self._deployment.agent_by_id.get(agent), agent, tuple(pending), more=asked[agent] >= MANY)
            for agent, pending in sorted(waiting.items(), key=lambda item: (len(item[1]), item[0]))
        )

    def _action(self, request: ApprovalRequest) -> Action | None:
        connection = self._deployment.connection_by_id.get(request.connection)
        return connection.action_by_id.get(request.detail["actions"][0]) if connection else None

    def _health(
        self, session: Session, connection: Connection, grant: Grant | None, issued: list[IssuedToken]
    ) -> ConnectionHealth:
        now = self._clock.now()
        seen = [token.issued_at for token in issued if token.connection == connection.id]
        return ConnectionHealth(
            connection=connection,
            needs_account=connection.grant_kind is GrantKind.AUTHORIZATION_CODE,
            user_known=not connection.grant_kind.serves_mapped_users_only or session.subject in connection.user_map,
            grant=grant,
            agents=agents_of(enabled_actions(self._deployment, connection, session.tenant)),
            last_used_at=max(seen, default=None),
            has_run_out=grant is not None and grant.ends_at is not None and grant.ends_at <= now,
            has_stopped=grant is not None and grant.has_stopped(now),
            ends_unused_at=self._ends_unused_soon(grant, now),
        )

    def _ends_unused_soon(self, grant: Grant | None, now: datetime) -> datetime | None:
        if grant is None or grant.ends_unused_at is None or not may_end_unused(grant):
            return None
        counts = self._deployment.grants_last_unused(grant.connection, grant.tenant) is not None
        return grant.ends_unused_at if counts and grant.ends_unused_at - now <= IDLE_NOTICE else None

    def _deed(self, token: IssuedToken) -> Deed:
        connection = self._deployment.connection_by_id.get(token.connection)
        detail = token.details[0] if token.details else {}
        action_id = detail.get("actions", ["?"])[0]
        action = connection.action_by_id.get(action_id) if connection else None
        return Deed(
            at=token.issued_at,
            agent=self._deployment.agent_by_id.get(token.client_id),
            agent_id=token.client_id,
            connection=connection,
            action=action,
            action_id=action_id,
            identifier=detail.get("identifier", ""),
            by_broker=token.by_broker,
            outcome=token.outcome,
            stands_for_more=not self._deployment.records_each(connection, action),
        )
