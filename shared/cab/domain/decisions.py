"""Decisions are values with their reasons, never bare booleans."""

from __future__ import annotations

from dataclasses import dataclass

from cab.domain.errors import Reason


@dataclass(frozen=True, slots=True)
class Permit:
    rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Deny:
    reason: Reason
    rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Confirm:
    """The user must agree first. `prompts` are the sentences of the policies that ask.

    `acr_values`: login levels separated by spaces, one of which the user must have where they agree, too.
    """

    prompts: tuple[str, ...]
    rules: tuple[str, ...] = ()
    acr_values: str | None = None


@dataclass(frozen=True, slots=True)
class StepUp:
    """The login is too old or too weak for this intent (RFC 9470)."""

    rules: tuple[str, ...] = ()
    max_age_s: int | None = None
    acr_values: str | None = None


Decision = Permit | Deny | Confirm | StepUp


@dataclass(frozen=True, slots=True)
class Check:
    """One step of the path of a decision, as `cab explain` prints it."""

    name: str
    passed: bool
    detail: str
