"""Users of the client can be strict: an example project passes `mypy --strict` and pyright, and mistakes in it do not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.running_stack import ROOT

PROJECT = Path(__file__).parent / "project"
MISTAKES = {
    number: match[1]
    for number, line in enumerate((PROJECT / "mistakes.py").read_text("utf-8").splitlines(), 1)
    if (match := re.search(r"# expect: ([\w-]+)", line))
}


def mypy_on(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
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


@pytest.fixture(scope="module")
def pyright(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[int]]:
    """The lines that pyright, strict, finds wrong, by file. `make types` runs it over what must be right."""
    settings = tmp_path_factory.mktemp("pyright") / "pyrightconfig.json"
    everything = {"extends": str(PROJECT / settings.name), "include": [str(PROJECT)]}
    settings.write_text(json.dumps(everything), "utf-8")
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "-p", str(settings)]
    done = subprocess.run([*command, "--pythonpath", sys.executable], capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == len(list(PROJECT.glob("*.py"))), done.stdout
    found: dict[str, set[int]] = {}
    for one in report["generalDiagnostics"]:
        found.setdefault(Path(one["file"]).name, set()).add(one["range"]["start"]["line"] + 1)
    return found


def test_what_users_write_is_strictly_typed(tmp_path: Path) -> None:
    done = mypy_on("sales.py", tmp_path)
    assert done.returncode == 0, done.stdout


def test_pyright_agrees(pyright: dict[str, set[int]]) -> None:
    assert pyright == {"mistakes.py": set(MISTAKES)}


def test_mistakes_are_found(tmp_path: Path) -> None:
    done = mypy_on("mistakes.py", tmp_path)
    found = re.findall(r"mistakes\.py:(\d+): error: .*\[([\w-]+)\]", done.stdout)
    assert {(int(line), code) for line, code in found} == set(MISTAKES.items())
