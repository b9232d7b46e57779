"""`${NAME}`: values that differ between environments (origins, ports), never secrets. Filled at load from declared names only."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

from cab.adapters.configuration.problems import Problem, choose_from
from cab.adapters.configuration.yaml_tree import Place, YamlTree
from cab.domain.identifiers import is_printable
from cab.values import immutable

VARIABLE = re.compile(r"\$\{([^}]*)\}?")
BROKER_FILE = "broker.yaml"
_NOT_IN_HOSTS = re.compile(r"[^a-z0-9]+")


def declared_variables(broker: YamlTree) -> tuple[str, ...]:
    """What `environment_variables` of broker.yaml lists; its shape is checked with the rest of the file."""
    listed = broker.value.get("environment_variables") if isinstance(broker.value, dict) else None
    return tuple(name for name in listed if isinstance(name, str)) if isinstance(listed, list) else ()


@immutable
class Filled:
    """`tree` with every `${NAME}` in its texts replaced, the mistakes, the declared names used, and the undeclared ones."""

    tree: YamlTree
    problems: list[Problem]
    used: set[str]
    undeclared: set[str]


def fill(
    tree: YamlTree,
    *,
    declared: Sequence[str] | None,
    environment: Mapping[str, str],
    reported: Collection[str] = frozenset(),
) -> Filled:
    """Fill in the variables of one file.

    `declared` is None when broker.yaml cannot be read: then every name may be one that it lists. `reported` are undeclared
    names that other files were told of: one mistake is told of once.
    """
    filler = _Filler(tree, declared, environment, reported)
    filled = YamlTree(tree.file, filler.filled(tree.value, ()), tree.lines)
    return Filled(filled, filler.problems, filler.used, filler.undeclared)


def about_declarations(
    broker: YamlTree,
    declared: Sequence[str],
    used: set[str],
    environment: Mapping[str, str],
    *,
    unset: Literal["error", "warning"],
) -> Iterator[Problem]:
    """What can be said once per declared name, at its declaration: nothing refers to it, or it has no value here."""
    for position, name in enumerate(declared):
        line = broker.line(("environment_variables", position))
        if name not in used:
            yield Problem(broker.file, line, f"{name} is declared and never used", "remove it", severity="warning")
        elif _value(name, environment) is None:
            message = f"the environment variable {name} is unset or not plain text"
            yield Problem(broker.file, line, message, f"set {name} where the broker runs", severity=unset)


def _value(name: str, environment: Mapping[str, str]) -> str | None:
    value = environment.get(name, "")
    return value if is_printable(value, max_length=2000) else None


class _Filler:
    def __init__(
        self,
        tree: YamlTree,
        declared: Sequence[str] | None,
        environment: Mapping[str, str],
        reported: Collection[str],
    ) -> None:
        self.problems: list[Problem] = []
        self.used: set[str] = set()
        self.undeclared: set[str] = set()
        self._tree = tree
        self._declared = None if declared is None else frozenset(declared)
        self._environment = environment
        self._reported = reported

    def filled(self, value: Any, place: Place) -> Any:
        if isinstance(value, dict):
            for key in value:
                if "${" in key:
                    self._refuse((*place, key), "variables are not filled in keys", "write the key out")
            return {key: self.filled(member, (*place, key)) for key, member in value.items()}
        if isinstance(value, list):
            return [self.filled(item, (*place, position)) for position, item in enumerate(value)]
        if isinstance(value, str) and "${" in value:
            return VARIABLE.sub(lambda match: self._value_of(match, place), value)
        return value

    def _value_of(self, match: re.Match[str], place: Place) -> str:
        name = match.group(1)
        if not match.group().endswith("}"):
            self._refuse(place, "`${` without `}`", "write ${NAME}")
        elif self._declared is not None and name not in self._declared:
            near = f"; {choose_from(name, self._declared, otherwise='')}" if self._declared else ""
            remedy = f"add it to environment_variables in {BROKER_FILE}{near}"
            if name not in self._reported and name not in self.undeclared:
                self._refuse(place, f"${{{name}}} is not declared", remedy)
            self.undeclared.add(name)
        else:
            self.used.add(name)
            if value := _value(name, self._environment):
                return value
        # Reported already, here or once at the declaration. A placeholder keeps the other checks meaningful.
        return f"https://{_NOT_IN_HOSTS.sub('-', name.lower()) or 'unnamed'}.invalid"

    def _refuse(self, place: Place, message: str, remedy: str) -> None:
        self.problems.append(Problem(self._tree.file, self._tree.line(place), message, remedy))
