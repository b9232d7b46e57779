"""Two weeks of an organisation, told decision by decision, with the truth noted beside: what an analyst's answers are held against.

Two tenants, thirty users, six agents, two policy versions, an outage of a provider, an injection, a stolen key, calls of
which some were never answered. Every event goes through the broker's own chain; times are virtual, the dice are fixed.

The suite lives through 600 decisions; CAB_DESK_DECISIONS=5000 (`make desk`) is the full size, with the same facts planted.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cab.adapters.google_cloud.bigquery.audit_schema import row_of
from cab.adapters.google_cloud.pubsub.audit_chain import AuditChain
from cab.domain.audit import (
    OUTCOME_OF_CALL,
    Actor,
    AuditEvent,
    CallFacts,
    EventType,
    GrantFacts,
    IntentFacts,
    LoginFacts,
    Outcome,
    PolicyFacts,
    Service,
    Subject,
    TaskFacts,
    TokenFacts,
    Tool,
)
from cab.domain.decisions import decided_by
from cab.domain.errors import Reason

DAYS = 14
DECISIONS = int(os.environ.get("CAB_DESK_DECISIONS", "600"))
USERS = {"acme": [f"acme-user-{n:02}" for n in range(20)], "globex": [f"globex-user-{n:02}" for n in range(10)]}
AGENTS = {"acme": ["sales", "support", "scout", "ops"], "globex": ["buyer", "clerk"]}
TEAMS = {
    "sales": "revenue",
    "support": "service",
    "scout": "revenue",
    "ops": "platform",
    "buyer": "supply",
    "clerk": "supply",
}
ACTIONS = {
    "crm.deal.read": ("crm", "read"),
    "crm.deal.update": ("crm", "write"),
    "crm.deal.delete": ("crm", "destructive"),
    "tracker.task.create": ("tracker", "write"),
    "warehouse.query.run": ("warehouse", "read"),
}
NEVER_USED = "warehouse.table.drop"  # on every agent's list, asked for by none
OUTAGE_DAY, INJECTION_DAY, THEFT_DAY, CHANGE_DAY = 4, 6, 9, 7
STOLEN = "scout"


@dataclass
class Truth:
    issued: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # tenant, agent, action
    refused_by: Counter[tuple[str, str]] = field(default_factory=Counter)  # tenant, decided by
    mismatches: Counter[str] = field(default_factory=Counter)  # by txn
    outage_refusals: int = 0
    calls: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    unreported: set[str] = field(default_factory=set)  # event ids
    answers: Counter[str] = field(default_factory=Counter)
    stolen_users: set[str] = field(default_factory=set)  # whom the key of STOLEN could reach on THEFT_DAY
    by_session: dict[str, set[str]] = field(default_factory=dict)  # session to txns
    flips: int = 0
    tokens: Counter[tuple[int, str]] = field(default_factory=Counter)  # day, agent
    decisions: Counter[tuple[int, str]] = field(default_factory=Counter)
    injection_txn: str = ""
    theft_network: str = "203.0.113.0/24"


class Organisation:
    """`rows` as ingest writes them, unless `write` takes each, in the order of time; `truth` as it happened."""

    def __init__(
        self, now: datetime, *, decisions: int = DECISIONS, write: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self.decisions = decisions
        self._decided = 0
        self.start = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=DAYS + 1)
        self.rows: list[dict[str, Any]] = []
        self._row = write or self.rows.append
        self._pause = min(timedelta(milliseconds=500), timedelta(hours=11) * DAYS / (4 * decisions))
        self.truth = Truth()
        self._dice = random.Random(12)  # noqa: S311 - dice, no secret
        self._chains: dict[str, AuditChain] = {}
        self._now = self.start
        self._ids = 0
        self._live()

    # --- writing ---

    def _name(self, of: str) -> str:
        self._ids += 1
        return f"{of}-{self._ids:06}"

    def _event_id(self) -> str:
        """A UUIDv7 of now, as the broker makes them: the views read its time."""
        self._ids += 1
        made = f"{int(self._now.timestamp() * 1000):012x}"
        return f"{made[:8]}-{made[8:]}-7000-8000-{self._ids:012x}"

    def tell(self, event_type: EventType, *, by: str = "exchange_token", **members: Any) -> AuditEvent:
        self._now += self._pause
        reason = members.pop("reason", None)
        event = AuditEvent(
            event_id=self._event_id(),
            event_type=event_type,
            occurred_at=self._now,
            reason_code=reason.value if reason else None,
            decided_by=decided_by(
                reason, decision=members.get("decision"), confirmed=members.get("confirmation_id") is not None
            ),
            **members,
        )
        name = f"{by}-{(self._now - self.start).days:02}"  # a process a day
        chain = self._chains.setdefault(name, AuditChain(name, Service(function=by, revision="r1")))
        self._write(event, chain)
        return event

    def _write(self, event: AuditEvent, chain: AuditChain) -> None:
        data = chain.seal(event).data
        received_at = event.occurred_at + timedelta(milliseconds=200)
        sealed = AuditEvent.model_validate_json(data)
        self._row(row_of(sealed, data=data, received_at=received_at, message_id=f"m-{event.event_id}"))

    # --- two weeks ---

    def _live(self) -> None:
        for tenant, users in USERS.items():
            for user in users:
                self._grant(EventType.GRANT_CONNECTED, tenant, user, "crm")
        for day in range(DAYS):
            self._now = self.start + timedelta(days=day, hours=8)
            self._day(day)
            self._now = self.start + timedelta(days=day, hours=20)
            for name, chain in list(self._chains.items()):
                if name.endswith(f"-{day:02}"):
                    closed = AuditEvent(
                        event_id=self._event_id(),
                        event_type=EventType.CHAIN_CLOSED,
                        occurred_at=self._now,
                        count=chain.length + 1,
                    )
                    self._write(closed, chain)

    def _day(self, day: int) -> None:
        until = self.decisions * (day + 1) // DAYS
        if day == INJECTION_DAY:
            self._inject(day)
        if day == THEFT_DAY:
            self._steal(day)
        if day == OUTAGE_DAY:
            for _ in range(
                self.decisions // 60
            ):  # harmless reads, all of them within what was asked or without any task
                self._ask(day, *self._somebody("acme"), "crm.deal.read", reason=Reason.PROVIDER_UNAVAILABLE)
                self.truth.outage_refusals += 1
            self._grant(
                EventType.GRANT_NEEDS_REAUTH, "acme", USERS["acme"][3], "crm", provider_error="http 400 invalid_grant"
            )
        while self._decided < until:
            self._turn(day)

    def _somebody(self, tenant: str) -> tuple[str, str, str]:
        return tenant, self._dice.choice(USERS[tenant]), self._dice.choice(AGENTS[tenant])

    def _turn(self, day: int) -> None:
        """A login, and what an agent then does in its user's name."""
        tenant, user, agent = self._somebody(self._dice.choice(("acme", "acme", "globex")))
        minted = self._login(day, tenant, user, agent)
        for _ in range(self._dice.randint(1, 5)):
            action = self._dice.choice([name for name in ACTIONS if name != "crm.deal.delete"])
            fate = self._dice.random()
            if fate < 0.05:
                self._ask(day, tenant, user, agent, action, minted=minted, reason=Reason.POLICY_DENIED)
            elif fate < 0.08:
                self._ask(day, tenant, user, agent, action, minted=minted, reason=Reason.RATE_LIMITED)
            elif fate < 0.13:
                self._confirm(day, tenant, user, agent, minted, approved=fate < 0.11)
            elif fate < 0.40:
                self._call(day, tenant, user, agent, action, minted)
            else:
                issued = self._ask(day, tenant, user, agent, action, minted=minted)
                self._report(issued, tenant, user, agent)

    def _login(
        self, day: int, tenant: str, user: str, agent: str, network: str = "192.0.2.0/24", session: str | None = None
    ) -> AuditEvent:
        session = session or f"session-{user}-{day}"
        minted = self.tell(
            EventType.ASSERTION_MINTED,
            by="mint_assertion",
            tenant=tenant,
            subject=Subject(key=user),
            actor=Actor(agent_id=agent, client_id="web"),
            login=LoginFacts(session=session, auth_time=self._now),
            token=TokenFacts(kind="assertion", jti=self._name("j"), expires_at=self._now + timedelta(minutes=5)),
            outcome=Outcome.ISSUED,
            txn=self._name("t"),
            caller_ip_prefix=network,
        )
        self.truth.by_session.setdefault(session, set()).add(minted.txn or "")
        if agent == STOLEN and day == THEFT_DAY:
            self.truth.stolen_users.add(user)
        return minted

    def _ask(
        self,
        day: int,
        tenant: str,
        user: str,
        agent: str,
        action: str,
        *,
        minted: AuditEvent | None = None,
        reason: Reason | None = None,
        comparison: str | None = None,
        identifier: str | None = None,
        network: str = "192.0.2.0/24",
        **members: Any,
    ) -> AuditEvent:
        connection, effect = ACTIONS[action]
        minted = minted or self._login(day, tenant, user, agent)
        outage = reason is Reason.PROVIDER_UNAVAILABLE
        is_mismatch = reason is Reason.INTENT_OUTSIDE_TASK
        if comparison is None:
            comparison = "action_outside" if is_mismatch else "no_task" if outage or effect == "read" else "within"
        decision = "deny" if reason in (Reason.POLICY_DENIED, Reason.INTENT_OUTSIDE_TASK) else "permit"
        flips = reason is None and action == "crm.deal.update" and day >= CHANGE_DAY
        self.truth.flips += flips
        version = "v2" if day >= CHANGE_DAY else "v1"
        facts: dict[str, Any] = {
            "decision": decision,
            "outcome": Outcome.REFUSED if reason else Outcome.ISSUED,
            "token": None
            if reason
            else TokenFacts(kind="downstream", sha256=self._name("s"), expires_at=self._now + timedelta(hours=1)),
            "policy": PolicyFacts(
                version=version,
                determining_rules=["readers" if effect == "read" else "writers"],
                shadow_decision="deny" if flips else decision,
                shadow_version="w1",
                shadow_differs=flips,
            ),
        } | members
        event = self.tell(
            EventType.EXCHANGE_DECIDED,
            tenant=tenant,
            subject=Subject(key=user),
            actor=Actor(agent_id=agent, client_id="web"),
            assertion_jti=minted.token.jti if minted.token else None,
            tool=Tool(connection=connection, provider=connection, action=action, effect=effect),
            intent=IntentFacts(identifier=identifier or f"thing/{self._dice.randint(1, 99):02}", trigger="user_turn"),
            task=TaskFacts(within=comparison == "within", comparison=comparison),
            reason=reason,
            txn=minted.txn,
            caller_ip_prefix=network,
            **facts,
        )
        truth = self.truth
        truth.decisions[day, agent] += 1
        self._decided += 1
        if event.outcome is Outcome.ISSUED:
            truth.issued[tenant, agent, action] += 1
            if event.call is None:
                truth.tokens[day, agent] += 1
                truth.unreported.add(event.event_id)
        else:
            truth.refused_by[tenant, str(event.decided_by)] += 1
        if is_mismatch:
            truth.mismatches[event.txn or ""] += 1
        return event

    def _report(self, issued: AuditEvent, tenant: str, user: str, agent: str) -> None:
        if issued.token is None or self._dice.random() < 0.3:
            return
        self.tell(
            EventType.TOOL_EXECUTED,
            tenant=tenant,
            subject=Subject(key=user),
            actor=Actor(agent_id=agent, client_id=agent),
            tool=issued.tool,
            token=TokenFacts(sha256=issued.token.sha256),
            call=CallFacts(outcome="done"),
            observed_by="agent",
            outcome=Outcome.EXECUTED,
            txn=issued.txn,
        )
        self.truth.unreported.discard(issued.event_id)

    def _call(self, day: int, tenant: str, user: str, agent: str, action: str, minted: AuditEvent) -> None:
        call_id = self._name("c")
        facts = CallFacts(id=call_id, method="POST", host="h", path_template="/x", request_digest="sha-256:d")
        attempt = self._ask(day, tenant, user, agent, action, minted=minted, call=facts)
        fate = self._dice.random()
        outcome, cause = (
            ("done", None) if fate < 0.8 else ("rejected", None) if fate < 0.9 else ("unknown", "interrupted")
        )
        if fate >= 0.95:  # its process was killed
            self.truth.calls["unknown", "no_outcome"] += 1
            self.truth.unreported.add(attempt.event_id)
            return
        self.truth.calls[outcome, cause] += 1
        self.tell(
            EventType.TOOL_EXECUTED,
            by="call_tool",
            tenant=tenant,
            subject=Subject(key=user),
            actor=Actor(agent_id=agent, client_id="web"),
            tool=attempt.tool,
            call=facts.model_copy(update={"outcome": outcome, "cause": cause}),
            observed_by="broker",
            outcome=OUTCOME_OF_CALL[outcome],  # type: ignore[index]
            txn=attempt.txn,
        )

    def _confirm(self, day: int, tenant: str, user: str, agent: str, minted: AuditEvent, *, approved: bool) -> None:
        confirmation = self._name("q")
        asked = self._ask(
            day,
            tenant,
            user,
            agent,
            "crm.deal.delete",
            minted=minted,
            reason=Reason.CONFIRMATION_REQUIRED,
            decision="confirm",
            confirmation_id=confirmation,
        )
        self._now += timedelta(seconds=7)
        self.tell(
            EventType.CONFIRMATION_DECIDED,
            by="connect_account",
            tenant=tenant,
            subject=Subject(key=user),
            actor=asked.actor,
            tool=asked.tool,
            decision="permit" if approved else "deny",
            confirmation_id=confirmation,
            outcome=Outcome.EXECUTED,
            txn=asked.txn,
        )
        self.truth.answers["approved" if approved else "refused"] += 1
        if approved:
            self._ask(day, tenant, user, agent, "crm.deal.delete", minted=minted, confirmation_id=confirmation)

    def _inject(self, day: int) -> None:
        """An agent reads a poisoned note and then wants everything deleted, at once."""
        tenant, user, agent = "acme", USERS["acme"][5], "sales"
        minted = self._login(day, tenant, user, agent)
        self.truth.injection_txn = minted.txn or ""
        self._ask(day, tenant, user, agent, "crm.deal.read", minted=minted, identifier="note/poisoned")
        for number in range(12):
            self._ask(
                day,
                tenant,
                user,
                agent,
                "crm.deal.delete",
                minted=minted,
                reason=Reason.INTENT_OUTSIDE_TASK,
                identifier=f"deal/{number}",
            )
        # The same day a clumsy agent, once.
        self._ask(day, *self._somebody("globex"), "crm.deal.update", reason=Reason.INTENT_OUTSIDE_TASK)

    def _steal(self, day: int) -> None:
        """Whoever has the agent's key asks from elsewhere, for the users whose assertions it can get hold of."""
        for user in self._dice.sample(USERS["acme"], 4):
            minted = self._login(day, "acme", user, STOLEN)
            self._ask(day, "acme", user, STOLEN, "crm.deal.read", minted=minted, network=self.truth.theft_network)

    def _grant(self, event_type: EventType, tenant: str, user: str, connection: str, **facts: Any) -> None:
        self.tell(
            event_type,
            by="refresh_grants",
            tenant=tenant,
            subject=Subject(key=user),
            tool=Tool(connection=connection, provider=connection),
            grant=GrantFacts(id=f"grant-{user}", cause="ended" if facts else None, **facts),
            outcome=Outcome.EXECUTED,
        )


def now() -> datetime:
    return datetime.now(UTC)
