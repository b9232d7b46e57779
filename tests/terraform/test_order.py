"""The order of an upgrade, as Terraform keeps it: read from the graph of a plan."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest
from tests.terraform.conftest import terraform


@pytest.fixture(scope="module")
def needs(module: Path) -> dict[str, set[str]]:
    """Every node of the graph with the nodes that come before it."""
    drawn = terraform(module, "graph", "-type=plan").stdout
    direct: dict[str, set[str]] = defaultdict(set)
    for later, earlier in re.findall(r'"\[root\] ([^"]+)" -> "\[root\] ([^"]+)"', drawn):
        direct[later].add(earlier)
    assert direct
    return direct


def comes_after(needs: dict[str, set[str]], later: str, earlier: str) -> bool:
    seen: set[str] = set()
    waiting = [node for node in needs if node.startswith(later)]
    assert waiting, later
    while waiting:
        for node in needs.get(waiting.pop(), set()) - seen:
            if node.startswith(earlier):
                return True
            seen.add(node)
            waiting.append(node)
    return False


@pytest.mark.parametrize(
    ("later", "earlier"),
    [
        ("module.ingest_audit.google_", "google_bigquery_table.events_raw"),
        ("module.function.google_", "module.ingest_audit.google_"),
        ("module.function.google_", "google_firestore_index.this"),
        ("module.function.google_", "google_firestore_field.indexed"),
        ("google_firestore_field.others", "google_firestore_field.indexed"),
        ("google_bigquery_table.events (", "google_bigquery_table.events_raw"),
    ],
)
def test_what_reads_is_upgraded_before_what_writes_to_it(needs: dict[str, set[str]], later: str, earlier: str) -> None:
    assert comes_after(needs, later, earlier)
    assert not comes_after(needs, earlier, later)
