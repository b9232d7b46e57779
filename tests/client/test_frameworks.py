"""The adapters, each under its framework, in an environment that has the frameworks and nothing of the broker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.running_stack import ROOT

PYTHON = ROOT / ".cab" / "venv-frameworks" / "bin" / "python"
TESTS = ROOT / "tests" / "client" / "frameworks"
ADAPTERS = ("langchain", "pydantic_ai", "openai_agents", "adk", "mcp", "fastapi")


def python() -> Path:
    if not PYTHON.exists():
        if os.environ.get("CAB_REQUIRE_OFFICIAL"):
            pytest.fail("`make test` sets the frameworks up")
        pytest.skip("the frameworks are not installed: make test does it")
    return PYTHON


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What became of the tests of each adapter, by one run of all: most of it is importing the frameworks."""
    report = tmp_path_factory.mktemp("frameworks") / "report.xml"
    command = [str(python()), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={ROOT}"]
    command += [f"--confcutdir={TESTS}", "-o", "asyncio_mode=auto", "--import-mode=importlib", f"--junitxml={report}"]
    done = subprocess.run(
        [*command, str(TESTS)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'shared'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.exists(), done.stdout + done.stderr
    found: dict[str, list[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - our own
        adapter = case.attrib["classname"].rpartition(".test_")[2]
        troubles = [f"{case.attrib['name']}: {one.tag}\n{one.text}" for one in case if one.tag != "properties"]
        found.setdefault(adapter, []).extend(troubles)
    return found


@pytest.mark.parametrize("adapter", [*ADAPTERS, "document"])
def test_an_adapter_pauses_for_the_user_and_leaks_nothing(outcomes: dict[str, list[str]], adapter: str) -> None:
    assert outcomes.get(adapter) == [], "\n".join(outcomes.get(adapter, ["it was not run"]))


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
