"""Where cross checks write what they find: a place in a file becomes its line."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from cab.adapters.configuration.problems import Problem
from cab.adapters.configuration.yaml_tree import Place, YamlTree
from cab.domain.configured.deployment import Deployment

BROKER, IDENTITY_PROVIDERS, AGENTS, CONNECTIONS = (
    "broker.yaml",
    "identity_providers.yaml",
    "agents.yaml",
    "connections.yaml",
)


class Findings:
    """The deployment under check and its mistakes so far. `file` arguments are names of the folder's YAML files.

    `unread` are those that could not be understood: the deployment holds stand-ins for their content, about which nothing is said.
    `uncertain` are those in which some value is not known (an undeclared variable): they cannot be compared with others.
    """

    def __init__(
        self,
        deployment: Deployment,
        trees: Mapping[str, YamlTree],
        *,
        unread: Collection[str] = frozenset(),
        uncertain: Collection[str] = frozenset(),
    ) -> None:
        self.deployment = deployment
        self.problems: list[Problem] = []
        self.actions_are_complete = True  # False once an id is known to be missing from the catalog
        self._trees = trees
        self._unread = frozenset(unread)
        self._uncertain = frozenset(uncertain)
        self._tenants = {tenant.id for tenant in deployment.broker.tenants} if BROKER not in unread else set()

    def add(
        self,
        file: str,
        place: Place,
        message: str,
        remedy: str,
        *,
        severity: Literal["error", "warning"] = "error",
        needs: Collection[str] = (),
    ) -> None:
        """`needs` are the other files that the finding rests on: it is true only if all of them were read."""
        if not self._unread.isdisjoint((file, *needs)) or (needs and not self._uncertain.isdisjoint((file, *needs))):
            return
        self.problems.append(Problem(file, self._trees[file].line(place), message, remedy, severity=severity))

    def apart(self, one: str, other: str) -> bool:
        """Whether two tenants are known to be different: a misspelt one is a mistake of its own, reported where it is."""
        return one != other and {one, other} <= self._tenants

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
