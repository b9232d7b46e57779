"""docs/api.md is true: its examples run against the stack, its error table is the one in the code."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from examples.acme.person import Person
from tests.running_stack import ROOT, Stack

from cab.domain.errors import Reason
from cab.protocol.oauth_errors import TABLE
from cab.transport.openapi import PAGE_REASONS

DOCUMENT = ROOT / "docs" / "api.md"


def test_the_error_table_is_complete_and_true() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\d{3}) \| (.+) \|$", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    documented = [(reason, error, int(status)) for reason, error, status, _ in rows]
    expected = [(reason.value, *TABLE[reason]) for reason in Reason if reason not in PAGE_REASONS]
    assert sorted(documented) == sorted(expected)
    assert all(remedy.strip() for *_, remedy in rows)


@pytest.mark.stack
def test_the_examples_run_in_the_order_of_the_document(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".cab").mkdir()
    (tmp_path / ".cab" / "dev").symlink_to(stack.state_dir)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT / "shared"), str(ROOT))))
    examples: dict[str, Any] = {"__name__": "examples_of_the_api_document"}
    for example, comment in re.findall(
        r"^```python\n(.*?)^```$|^<!-- (.*) -->$", DOCUMENT.read_text("utf-8"), re.MULTILINE | re.DOTALL
    ):
        if comment == "alice approves":
            person = Person("alice")
            assert person.decide(examples["pending"]["interaction_uri"], approve=True).status == 200
            person.close()
        else:
            exec(compile(example, str(DOCUMENT), "exec"), examples)  # noqa: S102
    assert examples["confirmed"].access_token
