"""Users of the client can be strict: an example project passes `mypy --strict`, and mistakes in it do not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.running_stack import ROOT

PROJECT = Path(__file__).parent / "project"


def checked(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, "--cache-dir", str(folder)]
    environment = os.environ | {"MYPYPATH": str(ROOT / "shared")}
    return subprocess.run(
        [*command, "--explicit-package-bases", "--follow-imports=silent", str(PROJECT / name)],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_users_write_is_strictly_typed(tmp_path: Path) -> None:
    done = checked("sales.py", tmp_path)
    assert done.returncode == 0, done.stdout


def test_mistakes_are_found(tmp_path: Path) -> None:
    done = checked("mistakes.py", tmp_path)
    found = {(int(line), code) for line, code in re.findall(r"mistakes\.py:(\d+): error: .*\[([\w-]+)\]", done.stdout)}
    lines = (PROJECT / "mistakes.py").read_text("utf-8").splitlines()
    wanted = {
        (number, match[1]) for number, line in enumerate(lines, 1) if (match := re.search(r"# expect: ([\w-]+)", line))
    }
    assert found == wanted
