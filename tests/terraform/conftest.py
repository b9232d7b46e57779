"""The Terraform module, initialised and tested once for all tests here: the provider's start is what costs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
APPLIED = "rights.tftest.hcl"
OFFLINE = ROOT.parent / "shared" / "terraform" / "terraform-offline"
STAND_IN = ROOT / ".cab" / "venv-terraform" / "bin" / "python"  # made by `make test`


def terraform(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = ["bash", str(OFFLINE)] if OFFLINE.exists() else ["terraform"]
    environment = os.environ | {"PYTHON": str(STAND_IN), "TF_DATA_DIR": str(folder.parent / "data")}
    environment["GOGC"] = "400"  # collecting garbage, of which a plan makes much, is a third of Terraform's CPU
    if OFFLINE.exists():
        # The stand-in keeps a certificate of a week and its own place below the home folder, which other runs share.
        environment |= {"HOME": str(folder.parent), "XDG_CACHE_HOME": str(folder.parent / "cache")}
    done = subprocess.run(
        [*program, *arguments, "-no-color"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
    return done


@dataclass(frozen=True)
class ModuleRun:
    """What `terraform test` said, one JSON document a line."""

    status: int
    lines: list[dict[str, Any]]

    def state(self, run: str) -> Any:
        """What the run of this name has applied."""
        (found,) = [it["test_state"] for it in self.lines if it["type"] == "test_state" and it["@testrun"] == run]
        return found


def prepared(folder: Path) -> Path:
    """A copy of the tree that Terraform reads, initialised. Nothing is written into the repository."""
    shutil.copytree(ROOT / "terraform", folder / "terraform")
    shutil.copytree(ROOT / "shared" / "cab" / "data", folder / "shared" / "cab" / "data")
    assert terraform(folder / "terraform", "init", "-backend=false").returncode == 0
    return folder / "terraform"


def run_tests(module: Path, *arguments: str) -> ModuleRun:
    done = terraform(module, "test", "-json", "-verbose", *arguments)
    return ModuleRun(done.returncode, [json.loads(line) for line in done.stdout.splitlines()])


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("terraform") is None:
        if os.environ.get("CI"):
            pytest.fail("terraform is not installed")
        pytest.skip("terraform is not installed")
    return prepared(tmp_path_factory.mktemp("terraform"))


@pytest.fixture(scope="session")
def tested(module: Path) -> ModuleRun:
    """The one run that applies the module in full. Not all of them: what each says with `-verbose` is long."""
    return run_tests(module, f"-filter=tests/{APPLIED}")
