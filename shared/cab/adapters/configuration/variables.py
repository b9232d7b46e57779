"""`${NAME}`: values that differ between environments (origins, ports), never secrets. Filled at load from declared names only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cab.adapters.configuration.problems import Problem, choose_from
from cab.adapters.configuration.yaml_tree import Place, YamlTree
from cab.domain.identifiers import is_printable

VARIABLE = re.compile(r"\$\{([^}]*)\}?")
BROKER_FILE = "broker.yaml"
_NOT_IN_HOSTS = re.compile(r"[^a-z0-9]+")


def declared_variables(broker: YamlTree) -> tuple[str, ...]:
    """What `environment_variables` of broker.yaml lists; its shape is checked with the rest of the file."""
    listed = broker.value.get("environment_variables") if isinstance(broker.value, dict) else None
    return tuple(name for name in listed if isinstance(name, str)) if isinstance(listed, list) else ()


def fill(
    tree: YamlTree, *, declared: Sequence[str], environment: Mapping[str, str]
) -> tuple[YamlTree, list[Problem], set[str]]:
    """The tree with every `${NAME}` in its texts replaced, the mistakes, and the names used."""
    filler = _Filler(tree, declared, environment)
    return YamlTree(tree.file, filler.filled(tree.value, ()), tree.lines), filler.problems, filler.used


def unused(broker: YamlTree, declared: Sequence[str], used: set[str]) -> Iterator[Problem]:
    """A warning for every declared name that no file refers to."""
    for position, name in enumerate(declared):
        if name not in used:
            line = broker.line(("environment_variables", position))
            yield Problem(broker.file, line, f"{name} is declared and never used", "remove it", severity="warning")


class _Filler:
    def __init__(self, tree: YamlTree, declared: Sequence[str], environment: Mapping[str, str]) -> None:
        self.problems: list[Problem] = []
        self.used: set[str] = set()
        self._tree = tree
        self._declared = frozenset(declared)
        self._environment = environment

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
        elif name not in self._declared:
            self._refuse(
                place,
                f"${{{name}}} is not declared",
                f"add it to environment_variables in {BROKER_FILE}"
                + (f"; {choose_from(name, self._declared, otherwise='')}" if self._declared else ""),
            )
        elif not is_printable(value := self._environment.get(name, ""), max_length=2000):
            self.used.add(name)
            self._refuse(place, f"the environment variable {name} is unset or not plain text", f"set {name}")
        else:
            self.used.add(name)
            return value
        return f"https://{_NOT_IN_HOSTS.sub('-', name.lower()) or 'unnamed'}.invalid"  # keeps the checks of URLs quiet

    def _refuse(self, place: Place, message: str, remedy: str) -> None:
        self.problems.append(Problem(self._tree.file, self._tree.line(place), message, remedy))
