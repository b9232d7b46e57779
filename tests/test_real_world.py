"""tests/real_world.yaml: each thing that others really do has a test that is there, and each numbered input an entry."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

TESTS = Path(__file__).parent
ENTRIES: list[dict[str, Any]] = yaml.safe_load((TESTS / "real_world.yaml").read_text("utf-8"))
CASES = frozenset({"01", "02", "04", "05", "06", "07", "10", "11", "13", "14", "15", "18", "19", "23", "24"})


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text("utf-8"))
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["id"])
def test_an_entry_says_what_happens_what_happened_before_and_which_tests_hold_it(entry: dict[str, Any]) -> None:
    assert entry.keys() - {"case"} == {"id", "what", "before", "tests"}
    assert entry["what"].endswith(".")
    assert entry["before"].endswith(".")
    assert entry["tests"]
    for place in entry["tests"]:
        file, _, name = place.partition("::")
        assert name in names_in(file), place


def test_every_numbered_input_has_one_entry() -> None:
    named = [entry["case"] for entry in ENTRIES if "case" in entry]
    assert sorted(named) == sorted(CASES)
    assert len({entry["id"] for entry in ENTRIES}) == len(ENTRIES)
