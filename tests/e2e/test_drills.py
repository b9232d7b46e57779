"""Instances end, are replaced and get other settings while agents go on asking: nobody notices, and the record is whole.

The long forms are `make drills`.
"""

from __future__ import annotations

import pytest
from tests.drills import steps
from tests.drills.fleet import fleet
from tests.drills.load import load
from tests.running_stack import Stack

pytestmark = pytest.mark.stack


def test_an_instance_that_is_told_to_stop_while_it_serves_leaves_nobody_without_answer(stack: Stack) -> None:
    with fleet(stack) as running:
        ending = running.start("exchange_token")
        with load(stack) as asking:
            steps.hand_over(running, asking, ending)
    assert asking.violations() == [], str(asking)
    assert asking.repeated == {}
