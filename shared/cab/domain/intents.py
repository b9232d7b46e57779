"""Intent: what an agent declares it is about to do. Compared with the catalog and with the user's task, deterministically."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, StringConstraints

from cab.domain.configured.actions import Action, Effect, ParameterValue
from cab.domain.configured.model import StrictModel
from cab.domain.errors import BrokerError, Reason, Remedy
from cab.domain.identifiers import ACTION_ID, TASK_ID
from cab.domain.tasks import Task
from cab.domain.text.patterns import covered_by_any
from cab.values import immutable

MAX_PARAMETERS_BYTES = 2048
MAX_LARGE_PARAMETERS_BYTES = 32_768  # of actions with parameters of type text or strings


class DeclaredIntent(StrictModel):
    """The `cab_action` authorization detail as it came in. Shape only; `Intent` is the checked one."""

    type: Literal["cab_action"]
    actions: tuple[Annotated[str, StringConstraints(pattern=f"^{ACTION_ID.pattern}\\Z", max_length=200)], ...] = Field(
        min_length=1, max_length=1
    )
    locations: tuple[Annotated[str, StringConstraints(min_length=1, max_length=500)], ...] = Field(
        min_length=1, max_length=1
    )
    identifier: Annotated[str, StringConstraints(min_length=1, max_length=300)]
    parameters: dict[Annotated[str, StringConstraints(min_length=1, max_length=64)], ParameterValue] = Field(
        default_factory=dict, max_length=50
    )
    task_id: Annotated[str, StringConstraints(pattern=f"^{TASK_ID.pattern}\\Z")] | None = None
    reason: Annotated[str, StringConstraints(max_length=500)] | None = None


@immutable
class Intent:
    """A declared intent that fits the catalog, defaults filled in. `reason` is untrusted text for people, never used by policy."""

    action: Action
    connection: str
    location: str
    identifier: str
    parameters: dict[str, ParameterValue]
    task_id: str | None
    reason: str | None

    def as_authorization_detail(self) -> dict[str, Any]:
        """The granted detail (RFC 9396 section 7): what is hashed, shown to the user, signed and returned."""
        detail: dict[str, Any] = {
            "type": "cab_action",
            "actions": [self.action.id],
            "locations": [self.location],
            "identifier": self.identifier,
            "parameters": self.parameters,
        }
        return detail if self.task_id is None else detail | {"task_id": self.task_id}


class TaskComparison(StrEnum):
    """How an intent relates to the task. Everything but `WITHIN` is refused unless policy asks the user instead."""

    WITHIN = "within"
    NO_TASK = "no_task"
    OTHER_TASK = "other_task"
    ACTION_OUTSIDE = "action_outside"
    IDENTIFIER_OUTSIDE = "identifier_outside"


def malformed(member: str, detail: str) -> BrokerError:
    return BrokerError(Reason.INTENT_MALFORMED, f"{member} {detail}.", remedy=Remedy(member=member))


def check_against_catalog(
    declared: DeclaredIntent, action: Action, *, connection: str, resource: str, task: Task | None
) -> Intent:
    """The intent as the catalog understands it.

    Raises: BrokerError LOCATION_MISMATCH when it names another resource than the target; INTENT_MALFORMED naming the member at fault.
    """
    if declared.locations[0] != resource:
        raise BrokerError(
            Reason.LOCATION_MISMATCH,
            "locations must name the resource of the target.",
            remedy=Remedy(member="locations"),
        )
    if not action.accepts_identifier(declared.identifier):
        raise malformed("identifier", "does not have the form the action's catalog entry asks for")
    for name, value in declared.parameters.items():
        spec = action.parameters.get(name)
        if spec is None:
            raise malformed("parameters", "has a member the action does not know")
        if problem := spec.problem(value):
            raise malformed(f"parameters.{name}", problem)
    if not any(spec.is_large for spec in action.parameters.values()) and _size(declared) > MAX_PARAMETERS_BYTES:
        raise malformed("parameters", "is larger than 2048 bytes")
    for name, spec in action.parameters.items():
        if spec.required and name not in declared.parameters:
            raise malformed(f"parameters.{name}", "is required")
    task_id = declared.task_id or (task.task_id if task else None)
    return Intent(
        action=action,
        connection=connection,
        location=resource,
        identifier=declared.identifier,
        parameters=action.with_defaults(declared.parameters),
        task_id=task_id,
        reason=declared.reason,
    )


def _size(declared: DeclaredIntent) -> int:
    """Bytes of the parameters as JSON."""
    return len(orjson.dumps(declared.parameters))


def compare_with_task(intent: Intent, task: Task | None) -> TaskComparison:
    """Pure comparison: the same intent and task always give the same answer."""
    if task is None:
        # A task id without a task would bind approvals and audit to something the user never said.
        return TaskComparison.NO_TASK if intent.task_id is None else TaskComparison.OTHER_TASK
    if intent.task_id != task.task_id:
        return TaskComparison.OTHER_TASK
    if not covered_by_any(task.actions, intent.action.id):
        return TaskComparison.ACTION_OUTSIDE
    if not covered_by_any(task.identifiers, intent.identifier):
        return TaskComparison.IDENTIFIER_OUTSIDE
    return TaskComparison.WITHIN


def allowed_without_confirmation(comparison: TaskComparison, effect: Effect, *, task_required: bool) -> bool:
    """Whether the comparison alone permits the intent: within the task, or a read when no task was given and none is required."""
    if comparison is TaskComparison.WITHIN:
        return True
    return comparison is TaskComparison.NO_TASK and effect is Effect.READ and not task_required
