"""The adapters, each under its framework, in an environment that has the frameworks and nothing of the broker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.running_stack import ROOT

PYTHON = ROOT / ".cab" / "venv-frameworks" / "bin" / "python"
TESTS = ROOT / "tests" / "client" / "frameworks"
ADAPTERS = ("langchain", "pydantic_ai", "openai_agents", "adk", "mcp")


def python() -> Path:
    if not PYTHON.exists():
        if os.environ.get("CAB_REQUIRE_OFFICIAL"):
            pytest.fail("`make test` sets the frameworks up")
        pytest.skip("the frameworks are not installed: make test does it")
    return PYTHON


@pytest.mark.parametrize("adapter", [*ADAPTERS, "document"])
def test_an_adapter_pauses_for_the_user_and_leaks_nothing(adapter: str) -> None:
    command: list[str | Path] = [
        python(),
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--rootdir",
        ROOT,
    ]
    command += ["--confcutdir", TESTS, "-o", "asyncio_mode=auto", "--import-mode=importlib"]
    done = subprocess.run(
        [*command, TESTS / f"test_{adapter}.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'shared'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_is_short_and_pins_nothing(adapter: str) -> None:
    text = (ROOT / "shared" / "cab_client" / f"{adapter}.py").read_text("utf-8")
    assert len(text.splitlines()) < 100
    assert "import cab_client" not in text


def test_importing_the_client_takes_less_than_150_ms_of_cpu_and_no_framework() -> None:
    code = (
        "import sys, time; start = time.process_time(); import cab_client; "
        "print(time.process_time() - start, *(set(sys.modules) & "
        "{'jwt', 'cryptography', 'pydantic', 'google.auth', 'langchain', 'mcp', 'starlette', 'pytest', 'cab'}))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], cwd=ROOT / "shared", capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    seconds, *loaded = min(run.stdout.split() for run in runs)
    assert float(seconds) < 0.15
    assert loaded == []
