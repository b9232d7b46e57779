"""From the wheel to a confirmed write on the local stack, as somebody does it who has only read docs/client.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from tests.client.test_frameworks import python
from tests.client.worlds import COMMAND
from tests.running_stack import ROOT, Stack

CLIENT = ROOT / "shared" / "cab_client"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds."""
    folder = tmp_path_factory.mktemp("client")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    built = subprocess.run(command, cwd=CLIENT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = (folder / "dist").glob("cab_client-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_the_client_its_types_and_its_license(installed: Path) -> None:
    held = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    package = {name for name in held if name.startswith("cab_client/")}
    assert package == {f"cab_client/{path.name}" for path in CLIENT.glob("*.py")} | {"cab_client/py.typed"}
    assert {name.partition("/")[2] for name in held - package} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    }


@pytest.mark.stack
def test_a_newcomer_gets_to_a_confirmed_write_in_two_frameworks(stack: Stack, installed: Path) -> None:
    start = time.monotonic()
    text = (ROOT / "docs" / "client.md").read_text("utf-8")
    program = installed / "try_cab.py"
    program.write_text("\n".join(re.findall(r"^```python quickstart\n(.*?)^```$", text, re.M | re.S)), "utf-8")
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(installed),
        "CAB_STATE_DIR": str(stack.state_dir),
        "CAB_COMMAND": f"env PYTHONPATH={ROOT / 'shared'}{os.pathsep}{ROOT} {COMMAND}",
    }
    done = subprocess.run(
        [str(python()), str(program)],
        cwd=installed,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    done_by = [
        line.partition(" ")[0] for line in done.stdout.splitlines() if re.search(r"has written: .*\bt-\d+", line)
    ]
    assert done_by == ["LangGraph", "pydantic-ai"], done.stdout
    assert time.monotonic() - start < 600
