"""Small wrong changes of Python text, as a tired person makes them."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
_NOT_CHANGED = frozenset({"Field", "getLogger", "log", "warning", "info", "debug", "exception", "suppress"})
"""Calls whose arguments tell people something, or only shape types: no test should hold their words."""

_RANDOM = frozenset({"token"})
"""Calls for random bytes: one more than asked for is no mistake."""

_UNSEEN = frozenset({"step", "__init__"})
"""Statements that do nothing in production: the kill harness stops a process at a `step`, and exceptions, which alone call their
base here, have its words without."""

_ROOM = ("CACHE_SIZE", "REMEMBERED")
"""Ends of names of how much a process keeps in memory at most: one more is no mistake. That there is a bound, tests hold with one of theirs."""


@dataclass(frozen=True)
class Mutation:
    line: int
    what: str
    text: str


def mutations(text: str) -> Iterator[Mutation]:
    """Every change of a module, each as the whole changed text. What is for types, people or readers stays."""
    tree = ast.parse(text)
    for path in _places(tree):
        original = _at(tree, path)
        for changed in _changes(original):
            copied = copy.deepcopy(tree)
            _put(copied, path, changed)
            yield Mutation(
                line=original.lineno,  # type: ignore[attr-defined]
                what=f"{_short(original)}  ->  {_short(changed)}",
                text=ast.unparse(ast.fix_missing_locations(copied)),
            )


Path = tuple[tuple[str, int | None], ...]


def _places(node: ast.AST, path: Path = ()) -> Iterator[Path]:
    if isinstance(node, ast.expr | ast.stmt):
        yield path
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases", "keywords") and not isinstance(node, ast.Call):
            continue
        if isinstance(value, ast.AST):
            yield from _below(value, (*path, (name, None)))
        elif isinstance(value, list):
            for number, each in enumerate(value):
                if isinstance(each, ast.AST):
                    yield from _below(each, (*path, (name, number)))


def _below(node: ast.AST, path: Path) -> Iterator[Path]:
    if isinstance(node, ast.Import | ast.ImportFrom | ast.Assert | ast.Raise | ast.JoinedStr):
        return
    if isinstance(node, ast.Call) and _name(node.func) in _NOT_CHANGED | _RANDOM:
        return
    if isinstance(node, ast.Expr) and _called(node.value) in _UNSEEN:
        return
    if isinstance(node, ast.Assign | ast.AnnAssign) and _is_type(node.value):
        return
    if isinstance(node, ast.AnnAssign) and _is_room(node):
        return
    if isinstance(node, ast.keyword) and _is_first_only(node):
        return
    yield from _places(node, path)


def _is_type(value: ast.expr | None) -> bool:
    """`X = A | B` at the top of a module names a type, more often than not."""
    return isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr) and isinstance(value.left, ast.Name)


def _is_room(node: ast.AnnAssign) -> bool:
    return isinstance(node.value, ast.Constant) and _name(node.target).endswith(_ROOM)


def _is_first_only(node: ast.keyword) -> bool:
    """A query for one document, of which the first is taken: with another behind it, it costs more and says the same."""
    return node.arg == "limit" and isinstance(node.value, ast.Constant) and node.value.value == 1


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield ast.Compare(node.left, [_COMPARISONS[type(node.ops[0])]()], node.comparators)
    elif isinstance(node, ast.Compare):
        yield ast.Compare(node.left, [_COMPARISONS[type(node.ops[0])](), *node.ops[1:]], node.comparators)
        yield ast.Compare(node.left, [*node.ops[:-1], _COMPARISONS[type(node.ops[-1])]()], node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.And() if isinstance(node.op, ast.Or) else ast.Or(), node.values)
        yield node.values[0]
        yield node.values[-1]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif (
        isinstance(node, ast.BinOp)
        and type(node.op) in _OPERATORS
        and not isinstance(node.right, ast.Constant | ast.JoinedStr)
    ):
        yield ast.BinOp(node.left, _OPERATORS[type(node.op)](), node.right)
    elif isinstance(node, ast.IfExp):
        yield node.body
        yield node.orelse
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.If):
        yield ast.If(ast.Constant(value=False), node.body, node.orelse)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await):
        yield ast.Pass()
    elif isinstance(node, ast.Return) and node.value is not None and not _is_nothing(node.value):
        yield ast.Return(ast.Constant(None))


def _is_nothing(node: ast.expr) -> bool:
    """None, or False, which whoever asks takes for the same."""
    return isinstance(node, ast.Constant) and (node.value is None or node.value is False)


def _called(node: ast.expr) -> str:
    call = node.value if isinstance(node, ast.Await) else node
    return _name(call.func) if isinstance(call, ast.Call) else ""


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _at(node: ast.AST, path: Path) -> ast.AST:
    for name, number in path:
        value = getattr(node, name)
        node = value if number is None else value[number]
    return node


def _put(tree: ast.AST, path: Path, changed: ast.AST) -> None:
    parent = _at(tree, path[:-1])
    name, number = path[-1]
    if number is None:
        setattr(parent, name, changed)
    else:
        getattr(parent, name)[number] = changed


def _short(node: ast.AST) -> str:
    text = ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).splitlines()
    return text[0][:90] + (" ..." if len(text) > 1 or len(text[0]) > 90 else "")
