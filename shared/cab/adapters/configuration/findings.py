"""Where cross checks write what they find: a place in a file becomes its line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from cab.adapters.configuration.problems import Problem
from cab.adapters.configuration.yaml_tree import Place, YamlTree
from cab.domain.deployment import Deployment


class Findings:
    """The deployment under check and its mistakes so far. `file` arguments are names of the folder's YAML files."""

    def __init__(self, deployment: Deployment, trees: Mapping[str, YamlTree]) -> None:
        self.deployment = deployment
        self.problems: list[Problem] = []
        self._trees = trees

    def add(
        self,
        file: str,
        place: Place,
        message: str,
        remedy: str,
        *,
        severity: Literal["error", "warning"] = "error",
    ) -> None:
        self.problems.append(Problem(file, self._trees[file].line(place), message, remedy, severity=severity))

    def unique(self, file: str, named: Iterable[tuple[Place, object]], what: str, remedy: str) -> None:
        """One error for every value that an earlier place of the same file already has."""
        first: dict[object, Place] = {}
        for place, value in named:
            if value in first:
                line = self._trees[file].line(first[value])
                self.add(file, place, f"{what} `{_shown(value)}` is already used in line {line}", remedy)
            else:
                first[value] = place


def _shown(value: object) -> str:
    return " ".join(str(part) for part in value if part is not None) if isinstance(value, tuple) else str(value)
