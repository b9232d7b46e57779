"""How policies read: the paths of their conditions, and what they compare them with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from cedarpy import pst

from cab.adapters.cedar.rules import Rule
from cab.values import immutable

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
Path = tuple[str, ...]
_EQUALITIES = frozenset(("eq", "not_eq", "in", "contains", "contains_all", "contains_any"))
_MIRRORED = {"less": "greater", "less_eq": "greater_eq", "greater": "less", "greater_eq": "less_eq"}


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
            stack.extend(children(node))


def attribute_path(node: Any) -> Path | None:
    """`context.task.comparison` as ("context", "task", "comparison"); None for anything that is not a plain path."""
    names: list[str] = []
    while isinstance(node, pst.GetAttr):
        names.append(node.attr)
        node = node.base
    return (node.name, *reversed(names)) if isinstance(node, pst.Var) else None


Literal = pst.StringLit | pst.LongLit | pst.Like


@immutable
class Comparison:
    """A path beside a literal. `operator` is Cedar's word with the path on its left: `less`, ..., `eq` for every kind of equality."""

    path: Path
    operator: str
    literal: Literal


def comparisons(rule: Rule) -> Iterator[Comparison]:
    """Every literal that the rule's conditions compare a plain path with, also inside sets, records and `if`."""
    for node in _nodes(rule.form.clauses):
        if isinstance(node, pst.Like):
            if path := attribute_path(node.base):
                yield Comparison(path, "like", node)
        elif isinstance(node, pst.BinaryOp) and (node.op in _EQUALITIES or node.op in _MIRRORED):
            for one, other, operator in (
                (node.left, node.right, node.op if node.op in _MIRRORED else "eq"),
                (node.right, node.left, _MIRRORED.get(node.op, "eq")),
            ):
                if path := attribute_path(one):
                    yield from (Comparison(below, operator, literal) for below, literal in _literals(other, path))


def presences(rule: Rule) -> Iterator[Path]:
    """Every path whose presence the rule's conditions ask for with `has`."""
    for node in _nodes(rule.form.clauses):
        if isinstance(node, pst.HasAttr) and (base := attribute_path(node.base)):
            yield (*base, *node.attrs)


def type_tests(rule: Rule) -> Iterator[tuple[str, str]]:
    """Every `principal is TYPE` of the rule's conditions: the variable and the type."""
    for node in _nodes(rule.form.clauses):
        if isinstance(node, pst.Is) and isinstance(node.base, pst.Var):
            yield node.base.name, str(node.entity_type)


def shown(literal: Literal) -> str:
    """The literal as written in the policy, without quotes."""
    if isinstance(literal, pst.Like):
        return "".join("*" if isinstance(part, pst.Wildcard) else part.value for part in literal.pattern)
    return str(literal.value)


def _literals(node: Any, path: Path) -> Iterator[tuple[Path, pst.StringLit | pst.LongLit]]:
    if isinstance(node, pst.StringLit | pst.LongLit):
        yield path, node
    elif isinstance(node, pst.UnaryOp) and node.op == "neg" and isinstance(node.arg, pst.LongLit):
        yield path, pst.LongLit(-node.arg.value)
    elif isinstance(node, pst.Set):
        for element in node.elements:
            yield from _literals(element, path)
    elif isinstance(node, pst.IfThenElse):
        yield from _literals(node.then_expr, path)
        yield from _literals(node.else_expr, path)
    elif isinstance(node, pst.Record):
        for name, member in node.fields.items():
            yield from _literals(member, (*path, name))


def _nodes(root: Any) -> Iterator[Any]:
    """Every node of a syntax tree, without recursion: Cedar bounds the depth, not our stack."""
    stack = [root]
    while stack:
        node = stack.pop()
        if is_dataclass(node):
            yield node
        stack.extend(children(node))


def children(node: Any) -> Iterator[Any]:
    """The parts of a node of a syntax tree."""
    if isinstance(node, tuple):
        yield from node
    elif isinstance(node, Mapping):
        yield from node.values()
    elif is_dataclass(node):
        yield from (getattr(node, field.name) for field in fields(node))
