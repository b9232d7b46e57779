"""tests/requirements.yaml and the tests agree: every requirement has a test, every named requirement exists."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

TESTS = Path(__file__).parent


@cache
def requirements() -> dict[str, dict[str, str]]:
    entries: list[dict[str, str]] = yaml.safe_load((TESTS / "requirements.yaml").read_text("utf-8"))
    return {entry["id"]: entry for entry in entries}


@cache
def markers() -> dict[str, list[str]]:
    """Places by requirement, read from the files: it makes no difference which tests are being run."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("*.py")):
        for name, line in _markers_in(ast.parse(path.read_text("utf-8"))):
            found.setdefault(name, []).append(f"{path.relative_to(TESTS)}:{line}")
    return found


def _markers_in(tree: ast.AST) -> Iterator[tuple[Any, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.requirement":
            (argument,) = node.args
            yield ast.literal_eval(argument), node.lineno


def test_every_requirement_has_a_test() -> None:
    assert sorted(requirements().keys() - markers().keys()) == []


def test_every_test_names_requirements_that_exist() -> None:
    unknown = {name: places for name, places in markers().items() if name not in requirements()}
    assert unknown == {}


def test_every_requirement_says_what_where_and_why() -> None:
    entries = yaml.safe_load((TESTS / "requirements.yaml").read_text("utf-8"))
    assert len({entry["id"] for entry in entries}) == len(entries)
    for entry in entries:
        assert entry.keys() == {"id", "spec", "section", "must"}
        assert all(isinstance(value, str) and value for value in entry.values())
        assert entry["must"].endswith(".")
