"""Mistakes in a deployment's files: always with file, line and remedy, always collected before anything is refused."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake. Lines count from 1. An `error` stops the load, a `warning` is only shown by `cab config validate`."""

    file: str
    line: int
    message: str
    remedy: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.severity}: {self.message}; {self.remedy}"


class ConfigurationRefused(Exception):
    """The files cannot be used. `problems` holds every mistake found, not only the first; none quotes a secret."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))


def errors_among(problems: Iterable[Problem]) -> list[Problem]:
    return [problem for problem in problems if problem.severity == "error"]


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant, if any is near."""
    found = difflib.get_close_matches(word, sorted(set(known)), n=1, cutoff=0.6)
    return found[0] if found else None


def choose_from(word: str, known: Iterable[str], *, otherwise: str) -> str:
    """The remedy for an unknown word: the near one, else the whole list, else `otherwise` when nothing is known at all."""
    names = sorted(set(known))
    if near := closest(word, names):
        return f"did you mean `{near}`?"
    if not names:
        return otherwise
    shown = ", ".join(f"`{name}`" for name in names[:12])
    return f"known here: {shown}{', ...' if len(names) > 12 else ''}"
