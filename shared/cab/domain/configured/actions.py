"""The action catalog: what a tool can do at a connection, with what effect, on what, with which minimal scopes."""

from __future__ import annotations

import re
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from cab.domain.configured.calls import ID, Call
from cab.domain.configured.model import StrictModel
from cab.domain.identifiers import ACTION_ID, is_printable

ScopeToken = Annotated[
    str, StringConstraints(pattern=r"^[\x21\x23-\x5B\x5D-\x7E]+\Z", max_length=200)
]  # RFC 6749 section 3.3
# Never `.` or `..` alone: a tool that puts it into a path would act on something else.
IDENTIFIER_CHARACTER = re.compile(r"[A-Za-z0-9._~-]")
IDENTIFIER_PART = re.compile(rf"(?!\.{{1,2}}\Z){IDENTIFIER_CHARACTER.pattern}{{1,128}}")
MAX_INTEGER = 2**53 - 1  # the largest one every JSON parser reads alike, and RFC 8785 can write


class Effect(StrEnum):
    READ = "read"
    WRITE = "write"
    DESTRUCTIVE = "destructive"


def tool_scope(effect: Effect) -> str:
    """The scope that a call token needs for tools of this effect."""
    return f"tools.{effect.value}"


class Parameter(StrictModel):
    """One parameter of an action: a flat value with bounds."""

    type: Literal["string", "integer", "boolean"] = Field(description="Kind of value.")
    required: bool = Field(default=False, description="Whether an intent must give it.")
    values: tuple[str, ...] = Field(default=(), description="The only strings allowed, when given.")
    max_length: int = Field(default=500, ge=1, le=2000, description="Longest string, in characters.")
    minimum: int = Field(default=-MAX_INTEGER, ge=-MAX_INTEGER, le=MAX_INTEGER, description="Smallest integer allowed.")
    maximum: int = Field(default=MAX_INTEGER, ge=-MAX_INTEGER, le=MAX_INTEGER, description="Largest integer allowed.")
    default: str | int | bool | None = Field(default=None, description="Filled in when the parameter is absent.")
    redact: bool = Field(default=False, description="Kept out of the audit event (its digest stays).")

    def problem(self, value: object) -> str | None:
        """Why `value` does not fit, as a fixed sentence; None when it fits."""
        if self.type == "boolean":
            return None if isinstance(value, bool) else "must be true or false"
        if self.type == "integer":
            if isinstance(value, bool) or not isinstance(value, int):
                return "must be an integer"
            return None if self.minimum <= value <= self.maximum else "is out of range"
        if not isinstance(value, str):
            return "must be a string"
        if len(value) > self.max_length:
            return "is too long"
        if value and not is_printable(value.replace("\n", " ").replace("\t", " "), max_length=self.max_length):
            return "holds control or invisible characters"
        if self.values and value not in self.values:
            return "is not one of the allowed values"
        return None

    @property
    def is_always_there(self) -> bool:
        """Whether every intent has a value for it: given, or filled in."""
        return self.required or self.default is not None

    @model_validator(mode="after")
    def _default_fits(self) -> Parameter:
        if self.default is not None and self.problem(self.default):
            raise ValueError("the default does not fit the parameter's own type or bounds")
        return self


class Action(StrictModel):
    """One thing a tool can do at a connection."""

    id: Annotated[str, StringConstraints(pattern=f"^{ACTION_ID.pattern}\\Z")] = Field(
        description="Dotted name, unique in the deployment."
    )
    title: str = Field(min_length=1, max_length=120, description="What people read on consent and approval pages.")
    effect: Effect = Field(description="What it does to the world; policies and limits go by it.")
    consequence: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="For destructive actions: the sentence people read before they agree, instead of: This deletes data.",
    )
    scopes: tuple[ScopeToken, ...] = Field(default=(), description="Minimal scopes at the downstream system.")
    identifier: str = Field(
        description="What it acts on: a collection such as `deal/*` (taken literally) or a form such as `deal/{id}`.",
        max_length=200,
    )
    parameters: dict[str, Parameter] = Field(
        default_factory=dict, description="What an intent may say about it, by name."
    )
    call: Call | None = Field(
        default=None,
        description="The request that the broker sends itself, for agents with mode call; none: token mode only.",
    )

    @model_validator(mode="after")
    def _call_carries_all_that_is_declared(self) -> Action:
        """Else the user would approve what is not sent, or something would be sent that nobody declared."""
        if self.call is None:
            return self
        used, declared = self.call.placeholders(), set(self.parameters)
        if self.identifier.endswith("{id}"):
            declared.add(ID)
        if unknown := sorted(used - declared):
            raise ValueError(f"call names {unknown[0]}, which is no parameter of this action")
        if unused := sorted(declared - used):
            raise ValueError(f"call does not use {unused[0]}: what is declared must be sent")
        if optional := sorted(
            self.call.always_needed() - {ID} - {n for n, p in self.parameters.items() if p.is_always_there}
        ):
            raise ValueError(f"{optional[0]} must be required or have a default: it stands in the path or in a list")
        method = self.call.method.value
        if self.effect is Effect.READ and method == "DELETE":
            raise ValueError("DELETE is no method of an action that reads")
        if self.effect is not Effect.READ and method in ("GET", "HEAD"):
            raise ValueError("GET and HEAD are methods of actions that read")
        return self

    @model_validator(mode="after")
    def _identifier_is_well_formed(self) -> Action:
        if not re.fullmatch(r"[A-Za-z0-9._~/-]+(/\*|/\{id\})?", self.identifier):
            raise ValueError("identifier must be plain text, optionally ending in /* or /{id}")
        return self

    @cached_property
    def _form(self) -> re.Pattern[str] | None:
        if not self.identifier.endswith("{id}"):
            return None
        return re.compile(re.escape(self.identifier.removesuffix("{id}")) + IDENTIFIER_PART.pattern)

    def accepts_identifier(self, identifier: str) -> bool:
        return identifier == self.identifier if self._form is None else bool(self._form.fullmatch(identifier))

    def with_defaults(self, parameters: dict[str, Any]) -> dict[str, str | int | bool]:
        """The parameters as they will be granted, hashed and shown: every default filled in."""
        filled: dict[str, str | int | bool] = {
            name: spec.default for name, spec in self.parameters.items() if spec.default is not None
        }
        return filled | parameters
