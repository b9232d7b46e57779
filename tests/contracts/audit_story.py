"""Audit events as the broker writes them, told one after the other and ready to be inserted as rows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from tests.support.audit_row import columns_of

from cab.adapters.google_cloud.pubsub.audit_chain import AuditChain
from cab.domain.audit import (
    OUTCOME_OF_CALL,
    Actor,
    AuditEvent,
    CallFacts,
    CallOutcome,
    EventType,
    GrantFacts,
    Outcome,
    Service,
    Subject,
    TokenFacts,
    Tool,
    read_json,
    withheld,
)

START = datetime.now(UTC).replace(minute=10, second=0, microsecond=0) - timedelta(hours=2)
ALICE, BOB = "subject-alice", "subject-bob"
UPDATE, DELETE = "crm.opportunity.update", "crm.opportunity.delete"


class Story:
    """Writes down events as the broker would: one second apart, chained, each received 250 ms later.

    `dated_ids` are those of the broker, which have the time in them; others are readable. Stories that are told into one
    table have a `title`, which their chains and events carry.
    """

    def __init__(self, *, start: datetime = START, dated_ids: bool = False, title: str = "") -> None:
        self._dated_ids = dated_ids
        self.title = title
        self._chains = {
            name: AuditChain(f"{title}chain-{name}", Service(function=name, revision="r1")) for name in ("a", "b", "c")
        }
        self._now = start
        self.rows: list[dict[str, Any]] = []

    def tell(
        self, event_type: EventType, outcome: Outcome | None = None, *, user: str = ALICE, by: str = "a", **members: Any
    ) -> dict[str, Any]:
        self._now += timedelta(seconds=1)
        event = AuditEvent(
            event_id=self._event_id(),
            event_type=event_type,
            occurred_at=self._now,
            outcome=outcome,
            tenant="acme",
            **{"subject": Subject(key=user), **members},
        )
        data = self._chains[by].seal(event).data
        received_at = self._now + timedelta(milliseconds=250)
        row = columns_of(data, received_at=received_at, message_id=f"m-{len(self.rows)}")
        self.rows.append(row)
        return row

    def _event_id(self) -> str:
        number = len(self.rows)
        if not self._dated_ids:
            return f"{self.title}event-{number:03}"
        return str(UUID(int=int(self._now.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62 | number))

    def tell_again(self, row: dict[str, Any], *, by: str) -> dict[str, Any]:
        """The same event published once more, as an outbox does when a process ended right after its first publish."""
        event = read_json(row["event_json"])
        data = self._chains[by].seal(event).data
        received_at = self._now + timedelta(milliseconds=250)
        again = columns_of(data, received_at=received_at, message_id=f"m-{len(self.rows)}")
        self.rows.append(again)
        return again

    def tell_otherwise(self, row: dict[str, Any], *, by: str, **members: Any) -> dict[str, Any]:
        """Something else under the id of an event that was told, as only somebody with a function's identity can publish it."""
        event = replace(read_json(row["event_json"]), **members)
        data = self._chains[by].seal(event).data
        received_at = self._now + timedelta(milliseconds=250)
        other = columns_of(data, received_at=received_at, message_id=f"m-{len(self.rows)}")
        self.rows.append(other)
        return other

    def withhold(self, row: dict[str, Any]) -> dict[str, Any]:
        """Take back an event whose token did not leave."""
        issued = read_json(row["event_json"])
        event = withheld(issued, event_id=self._event_id(), reason_code="audit_unavailable")
        data = self._chains["a"].seal(event).data
        taken_back = columns_of(data, received_at=self._now, message_id=f"m-{len(self.rows)}")
        self.rows.append(taken_back)
        return taken_back

    def exchange(
        self,
        outcome: Outcome,
        *,
        agent: str = "sales-assistant",
        action: str = UPDATE,
        event_type: EventType = EventType.EXCHANGE_DECIDED,
        **members: Any,
    ) -> dict[str, Any]:
        return self.tell(
            event_type,
            outcome,
            actor=Actor(agent_id=agent, client_id=agent),
            tool=Tool(connection="crm", action=action, effect="write"),
            **members,
        )

    def attempt(
        self, call_id: str, *, outcome: Outcome = Outcome.ISSUED, digest: str = "sha-256:d", **members: Any
    ) -> Any:
        """The decision of a call that the broker makes, before any token moves."""
        facts = CallFacts(
            id=call_id, method="PATCH", host="crm", path_template="/opportunities/{id}", request_digest=digest
        )
        return self.exchange(outcome, call=facts, **members)

    def outcome(
        self,
        call_id: str,
        outcome: CallOutcome,
        *,
        agent: str = "sales-assistant",
        digest: str = "sha-256:d",
        cause: str | None = None,
        **members: Any,
    ) -> dict[str, Any]:
        """What came of it, as the broker saw it."""
        return self.tell(
            EventType.TOOL_EXECUTED,
            OUTCOME_OF_CALL[outcome],
            actor=Actor(agent_id=agent, client_id=agent),
            tool=Tool(connection="crm", action=UPDATE, effect="write", mode="call"),
            call=CallFacts(id=call_id, request_digest=digest, outcome=outcome, cause=cause, attempts=1),
            observed_by="broker",
            **members,
        )

    def report(
        self,
        token_sha256: str,
        outcome: CallOutcome,
        *,
        agent: str = "sales-assistant",
        by: str | None = None,
        **members: Any,
    ) -> dict[str, Any]:
        """What the client that had a token says came of it, or with `by` the server of the resource it was for."""
        observer = "agent" if by is None else "resource"
        facts: dict[str, Any] = {"call": CallFacts(outcome=outcome), "observed_by": observer} | members
        return self.tell(
            EventType.TOOL_EXECUTED,
            facts.pop("ended", OUTCOME_OF_CALL[outcome]),
            actor=Actor(agent_id=agent, client_id=by or agent),
            tool=Tool(connection="crm", action=UPDATE, effect="write"),
            token=TokenFacts(sha256=token_sha256),
            **facts,
        )

    def grant(self, event_type: EventType, grant_id: str, *, user: str = ALICE, **facts: Any) -> dict[str, Any]:
        return self.tell(
            event_type,
            Outcome.EXECUTED,
            user=user,
            tool=Tool(connection="crm", provider="acme-crm"),
            grant=GrantFacts(id=grant_id, **facts),
        )
