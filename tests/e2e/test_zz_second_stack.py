"""Two stacks side by side, and the end of one. Named to run after what needs the second."""

from __future__ import annotations

import time

import psutil
import pytest
import requests
from tests.running_stack import Stack

pytestmark = pytest.mark.stack
GONE_WITHIN_S = 5


def test_a_second_stack_runs_beside_the_first_and_leaves_nothing_behind(stack: Stack, second_stack: Stack) -> None:
    assert second_stack.file.origin != stack.file.origin
    assert requests.get(f"{second_stack.file.origin}/oauth2/jwks.json", timeout=5).json()["keys"]
    assert "bigquery" not in second_stack.file.services  # as it was asked
    processes = psutil.Process(second_stack.process.pid).children(recursive=True)
    assert second_stack.process.stdin is not None
    second_stack.process.stdin.close()  # as when the program that started it is killed
    begun = time.monotonic()
    second_stack.process.wait(15)
    assert time.monotonic() - begun < 8
    _, alive = psutil.wait_procs(processes, GONE_WITHIN_S)
    assert alive == []
    assert not (second_stack.state_dir / "stack.json").exists()
    assert requests.get(f"{stack.file.origin}/oauth2/jwks.json", timeout=5).status_code == 200
