"""The action catalog: what a tool can do at a connection, with what effect, on what, with which minimal scopes."""

from __future__ import annotations

import re
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from cab.domain.configured.calls import ID, AnyCall, McpCall
from cab.domain.configured.model import StrictModel
from cab.domain.identifiers import ACTION_ID, is_printable

ScopeToken = Annotated[
    str, StringConstraints(pattern=r"^[\x21\x23-\x5B\x5D-\x7E]+\Z", max_length=200)
]  # RFC 6749 section 3.3
# Never `.` or `..` alone: a tool that puts it into a path would act on something else.
IDENTIFIER_CHARACTER = re.compile(r"[A-Za-z0-9._~-]")
IDENTIFIER_PART = re.compile(rf"(?!\.{{1,2}}\Z){IDENTIFIER_CHARACTER.pattern}{{1,128}}")
MAX_TEXT = 16_384  # characters, and bytes as UTF-8
ParameterValue = str | int | bool | tuple[str, ...]
_LINES = str.maketrans("\n\t", "  ")
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

    type: Literal["string", "text", "strings", "integer", "boolean"] = Field(
        description="Kind of value. `text` is longer and may have lines; `strings` is a list."
    )
    description: str | None = Field(
        default=None,
        min_length=1,
        max_length=1024,
        description="What it is for, in the words that tools are listed with.",
    )
    required: bool = Field(default=False, description="Whether an intent must give it.")
    values: tuple[str, ...] = Field(default=(), description="The only strings allowed, when given.")
    max_length: int | None = Field(
        default=None,
        ge=1,
        le=MAX_TEXT,
        description="Longest string, in characters. `string`: 500 unless given, at most 2,000; `text`: 16,384; each of `strings`: "
        "500 unless given, at most 1,024.",
    )
    max_items: int = Field(default=50, ge=1, le=50, description="Most items of `strings`.")
    minimum: int = Field(default=-MAX_INTEGER, ge=-MAX_INTEGER, le=MAX_INTEGER, description="Smallest integer allowed.")
    maximum: int = Field(default=MAX_INTEGER, ge=-MAX_INTEGER, le=MAX_INTEGER, description="Largest integer allowed.")
    default: ParameterValue | None = Field(default=None, description="Filled in when the parameter is absent.")
    redact: bool = Field(default=False, description="Kept out of the audit event (its digest stays).")

    @model_validator(mode="after")
    def _length_fits_type(self) -> Parameter:
        longest = {"string": 2000, "strings": 1024}.get(self.type)
        if longest is not None and self.longest > longest:
            raise ValueError(f"max_length of {self.type} is at most {longest}")
        return self

    @property
    def longest(self) -> int:
        """Characters of the longest string allowed."""
        return self.max_length or (MAX_TEXT if self.type == "text" else 500)

    @property
    def is_large(self) -> bool:
        """Whether its values may be too long to be read at a glance."""
        return self.type in ("text", "strings")

    def problem(self, value: object) -> str | None:
        """Why `value` does not fit, as a fixed sentence; None when it fits."""
        if self.type == "strings":
            # An empty list would be sent as if nothing had been said.
            if not isinstance(value, list | tuple) or not 0 < len(value) <= self.max_items:
                return f"must be a list of 1 to {self.max_items} strings"
            return next((problem for item in value if (problem := self._problem_of_text(item))), None)
        if self.type == "boolean":
            return None if isinstance(value, bool) else "must be true or false"
        if self.type == "integer":
            if isinstance(value, bool) or not isinstance(value, int):
                return "must be an integer"
            return None if self.minimum <= value <= self.maximum else "is out of range"
        return self._problem_of_text(value)

    def _problem_of_text(self, value: object) -> str | None:
        if not isinstance(value, str):
            return "must be a string"
        if len(value) > self.longest or len(value.encode("utf-8", "surrogatepass")) > MAX_TEXT:
            return "is too long"
        if value and not is_printable(value.translate(_LINES), max_length=self.longest):
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
    description: str | None = Field(
        default=None,
        min_length=1,
        max_length=1024,
        description="What the tool does, in the words that it is listed with; default: the title.",
    )
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
    call: AnyCall | None = Field(
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
            raise ValueError(f"{optional[0]} must be required or have a default: it is used in the path or in a list")
        if isinstance(self.call, McpCall):
            return self
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

    def with_defaults(self, parameters: dict[str, Any]) -> dict[str, ParameterValue]:
        """The parameters as they will be granted, hashed and shown: every default filled in."""
        filled: dict[str, ParameterValue] = {
            name: spec.default for name, spec in self.parameters.items() if spec.default is not None
        }
        return filled | parameters
