"""Task bounds: what the user asked for, as patterns on intents. Set by the trusted front end, never by the model."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints, field_validator

from cab.domain.configured.model import StrictModel
from cab.domain.identifiers import TASK_ID
from cab.domain.text.patterns import all_covered

Pattern = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._~/:-]*\*?\Z", min_length=1, max_length=200)]
Trigger = Literal["user_turn", "schedule", "event"]
MAX_USES: Final = 100_000


class TaskLimits(StrictModel):
    max_uses: int = Field(ge=1, le=MAX_USES, strict=True)


class Task(StrictModel):
    """The `cab_task` authorization detail (RFC 9396) of an assertion."""

    type: Literal["cab_task"]
    task_id: Annotated[str, StringConstraints(pattern=f"^{TASK_ID.pattern}\\Z")]
    trigger: Trigger = "user_turn"
    actions: tuple[Pattern, ...] = Field(min_length=1, max_length=50)
    identifiers: tuple[Pattern, ...] = Field(min_length=1, max_length=100)
    limits: TaskLimits | None = None
    request_digest: Annotated[str, StringConstraints(pattern=r"^sha-256:[A-Za-z0-9_-]{43}\Z")] | None = None

    @field_validator("actions", "identifiers")
    @classmethod
    def _no_repeats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("the pattern is repeated")
        return value

    @property
    def max_uses(self) -> int | None:
        return self.limits.max_uses if self.limits else None

    def contains(self, narrower: Task) -> bool:
        """Whether `narrower` asks for nothing this task does not already allow (used when one agent delegates to another)."""
        within_limit = self.max_uses is None or (narrower.max_uses is not None and narrower.max_uses <= self.max_uses)
        return (
            narrower.task_id == self.task_id
            and narrower.trigger == self.trigger
            and narrower.request_digest == self.request_digest  # what the user said does not change on the way
            and within_limit
            and all_covered(self.actions, narrower.actions)
            and all_covered(self.identifiers, narrower.identifiers)
        )
