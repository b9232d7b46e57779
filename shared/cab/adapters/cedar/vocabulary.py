"""Words that policies compare with closed lists. A misspelt one type-checks, never matches, and so switches its rule off in silence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_args

from cedarpy import pst

from cab.adapters.cedar.rules import Rule
from cab.domain.actions import Action
from cab.domain.deployment import Deployment
from cab.domain.intents import TaskComparison
from cab.domain.tasks import Trigger

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
NO_TRIGGER = "unknown"  # without a task nothing says what set the agent off

Path = tuple[str, ...]
Vocabulary = Mapping[Path, frozenset[str]]


def vocabulary(deployment: Deployment, actions: Sequence[Action]) -> Vocabulary:
    """The closed lists by attribute path, for a rule that applies to `actions`."""
    agents = frozenset(agent.client_id for agent in deployment.agents)
    words: dict[Path, frozenset[str]] = {
        ("context", "task", "comparison"): frozenset(TaskComparison),
        ("context", "trigger"): frozenset((*get_args(Trigger), NO_TRIGGER)),
        ("context", "agent", "id"): agents,
        ("context", "agent", "mode"): frozenset(("token", "call")),
        ("context", "chain"): agents,
        ("context", "time", "weekday"): frozenset(WEEKDAYS),
        ("principal", "tenant"): frozenset(tenant.id for tenant in deployment.broker.tenants),
        ("resource", "connection"): frozenset(connection.id for connection in deployment.connections),
    }
    for name in {name for action in actions for name in action.parameters}:
        declared = [action.parameters[name] for action in actions if name in action.parameters]
        if all(parameter.values for parameter in declared):
            words["context", "parameters", name] = frozenset(
                value for parameter in declared for value in parameter.values
            )
    return words


def unknown_words(rule: Rule, words: Vocabulary) -> Iterator[tuple[Path, str]]:
    """Every literal of the rule that is compared with a closed list and is not on it."""
    for path, literal in _comparisons(rule.form.clauses):
        known = words.get(path)
        if known is not None and not any(_matches(literal, word) for word in known):
            yield path, _shown(literal)


def mentions(rule: Rule, prefix: Path) -> bool:
    """Whether any condition of the rule reads an attribute below `prefix`."""
    return any(
        path[: len(prefix)] == prefix
        for node in _nodes(rule.form.clauses)
        if (path := attribute_path(node)) is not None
    )


def paths_read(rule: Rule) -> Iterator[Path]:
    """Every path that the rule's conditions read, each as far as it is a plain path: whole values, their members, presence."""
    stack: list[Any] = [rule.form.clauses]
    while stack:
        node = stack.pop()
        if isinstance(node, pst.HasAttr) and (base := attribute_path(node.base)):
            yield (*base, *node.attrs)
        elif path := attribute_path(node):
            yield path
        else:
            stack.extend(_children(node))


def attribute_path(node: Any) -> Path | None:
    """`context.task.comparison` as ("context", "task", "comparison"); None for anything that is not a plain path."""
    names: list[str] = []
    while isinstance(node, pst.GetAttr):
        names.append(node.attr)
        node = node.base
    return (node.name, *reversed(names)) if isinstance(node, pst.Var) else None


Literal = pst.StringLit | pst.Like


def _comparisons(clauses: Sequence[pst.Clause]) -> Iterator[tuple[Path, Literal]]:
    for node in _nodes(clauses):
        if isinstance(node, pst.Like):
            if path := attribute_path(node.base):
                yield path, node
        elif isinstance(node, pst.BinaryOp):
            for one, other in ((node.left, node.right), (node.right, node.left)):
                path = attribute_path(one)
                if path is not None:
                    yield from ((path, literal) for literal in _literals(other))


def _literals(node: Any) -> Iterator[pst.StringLit]:
    if isinstance(node, pst.StringLit):
        yield node
    elif isinstance(node, pst.Set):
        yield from (element for element in node.elements if isinstance(element, pst.StringLit))


def _matches(literal: Literal, word: str) -> bool:
    if isinstance(literal, pst.StringLit):
        return literal.value == word
    pattern = "".join(".*" if isinstance(part, pst.Wildcard) else re.escape(part.value) for part in literal.pattern)
    return re.fullmatch(pattern, word, re.DOTALL) is not None


def _shown(literal: Literal) -> str:
    if isinstance(literal, pst.StringLit):
        return literal.value
    return "".join("*" if isinstance(part, pst.Wildcard) else part.value for part in literal.pattern)


def _nodes(root: Any) -> Iterator[Any]:
    """Every node of a syntax tree, without recursion: Cedar bounds the depth, not our stack."""
    stack = [root]
    while stack:
        node = stack.pop()
        if is_dataclass(node):
            yield node
        stack.extend(_children(node))


def _children(node: Any) -> Iterator[Any]:
    if isinstance(node, tuple):
        yield from node
    elif isinstance(node, Mapping):
        yield from node.values()
    elif is_dataclass(node):
        yield from (getattr(node, field.name) for field in fields(node))
