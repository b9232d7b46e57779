"""What a proposed configuration would have decided on recorded exchanges, by the very code that decides.

What the record does not tell is not guessed: a flip that may hang on it is counted as unsure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from cab.domain.audit import AuditEvent, read_json
from cab.domain.configured.deployment import Deployment
from cab.domain.decisions import Confirm, Decision, Deny, Permit, StepUp
from cab.domain.errors import Reason
from cab.ports import PolicyEngine
from cab_ops.audit.questions import Question
from cab_ops.explain.event import NotExplainable, is_recorded_whole, judge_again

SAMPLES: Final = 3  # event ids named for each flip

DECIDED: Final = Question(
    """
    SELECT event_json
    FROM events_between(@since, @until)
    WHERE event_type = 'exchange.decided' AND decision IS NOT NULL AND action IS NOT NULL
      AND outcome != 'withheld'
      AND (@tenant IS NULL OR tenant = @tenant)
    ORDER BY occurred_at
    LIMIT @limit
    """,
    ("since", "until", "tenant", "limit"),
    timeout_s=600,
)


@dataclass(frozen=True, slots=True)
class Change:
    """From one end to another, for an agent and an action; `rules` decide under the proposal."""

    agent: str
    action: str
    before: str
    after: str
    rules: tuple[str, ...]


@dataclass(slots=True)
class Flips:
    count: int = 0
    unsure: int = 0
    events: list[str] = field(default_factory=list)
    why_unsure: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Replay:
    decisions: int = 0
    unreadable: int = 0
    changes: dict[Change, Flips] = field(default_factory=dict)

    @property
    def flips(self) -> int:
        """Those that the record is enough for."""
        return sum(found.count - found.unsure for found in self.changes.values())

    @property
    def unsure(self) -> int:
        return sum(found.unsure for found in self.changes.values())


def replay(texts: Iterable[str], deployment: Deployment, policies: PolicyEngine) -> Replay:
    """`texts` are events as published."""
    answer = Replay()
    for text in texts:
        try:
            event = read_json(text)
            judged = judge_again(event, deployment, policies)
        except (ValueError, NotExplainable):
            answer.unreadable += 1
            continue
        answer.decisions += 1
        after = f"gone: {judged.value}" if isinstance(judged, Reason) else ended(judged.decision)
        before = recorded_end(event)
        if before == after:
            continue
        decision = None if isinstance(judged, Reason) else judged.decision
        change = Change(
            (event.actor and event.actor.agent_id) or "?",
            (event.tool and event.tool.action) or "?",
            before,
            after,
            () if decision is None else decision.rules,
        )
        found = answer.changes.setdefault(change, Flips())
        found.count += 1
        if len(found.events) < SAMPLES:
            found.events.append(event.event_id)
        doubt = unknown(event, decision)
        if doubt is not None:
            found.unsure += 1
            found.why_unsure.add(doubt)
    return answer


def ended(decision: Decision | None) -> str:
    match decision:
        case Permit():
            return "permit"
        case Confirm():
            return "confirm"
        case StepUp():
            return "step up"
        case Deny():
            return f"deny: {decision.reason.value}"
        case None:
            return "undecided"


def recorded_end(event: AuditEvent) -> str:
    """What the rules had said: a permit that a person gave is a question, and what a store or provider said later is neither."""
    if event.decision == "permit":
        return "confirm" if event.confirmation_id else "permit"
    if event.decision == "confirm":
        return "confirm"
    if event.reason_code == Reason.STEP_UP_REQUIRED.value:
        return "step up"
    return f"deny: {event.reason_code}"


def unknown(event: AuditEvent, decision: Decision | None) -> str | None:
    """What the proposal may have looked at and the record does not have."""
    if isinstance(decision, StepUp):
        return "how the user had logged in (amr) is not recorded" if event.login else "the login is not recorded"
    if not is_recorded_whole(event):
        return "parameters are redacted in the record"
    return None
