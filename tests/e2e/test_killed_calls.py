"""call_tool is killed while it calls: nothing is done twice, nothing without an attempt, and nothing reads better than it is."""

from __future__ import annotations

import random

import pytest
from tests.e2e.killing_calls import kill_under_load
from tests.running_stack import Stack

pytestmark = pytest.mark.stack

KILLS = 2  # `make soak` does fifty


def test_whatever_moment_call_tool_dies_in_the_record_and_the_platform_agree(stack: Stack) -> None:
    seen = kill_under_load(stack, KILLS, random.Random(11))  # noqa: S311 - moments, not secrets
    assert seen.violations() == []
    assert seen.kills == KILLS
    outcomes = {row["outcome"] for row in seen.rows.values()}
    assert outcomes >= {"done", "unknown"}, str(seen)
    assert "call_already_attempted" in seen.told_again.values()
