"""`make demo`, played once against the running stack."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from tests.running_stack import ROOT, Stack

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def played(stack: Stack) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples.acme.demo", "--state-dir", str(stack.state_dir)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'shared'}{os.pathsep}{ROOT}"},
    )


def test_both_stories_and_the_attack_end_as_told(played: subprocess.CompletedProcess[str]) -> None:
    assert played.returncode == 0, played.stdout + played.stderr
    assert "NOT TRUE" not in played.stdout
    assert re.search(r"All \d+ facts hold\.", played.stdout)


def test_the_demo_shows_no_token_and_fits_a_terminal(played: subprocess.CompletedProcess[str]) -> None:
    assert "eyJ" not in played.stdout + played.stderr
    assert "\x1b" not in played.stdout
    assert max(map(len, played.stdout.splitlines())) <= 100
