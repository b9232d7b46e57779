"""A run on several processes: what is one server for the whole run is started once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from tests.lanes import LANES, LONG, lane

ROOT = Path(__file__).resolve().parents[1]
SERVERS = {"stack": "stack", "official": "official", "guests_stack": "guests"}  # fixture: lane


def test_tests_that_share_a_server_stay_on_one_process(request: pytest.FixtureRequest) -> None:
    """A file that begins to use one must be named in tests/lanes.py."""
    strays: dict[str, set[str]] = defaultdict(set)
    for item in request.session.items:
        names = set(getattr(item, "fixturenames", ()))
        if "guests_stack" in names:
            names.discard("stack")  # what they call it
        for server, its_lane in SERVERS.items():
            if server in names and lane(item.nodeid) != its_lane:
                strays[server].add(item.nodeid.partition("::")[0])
    assert dict(strays) == {}


def test_a_lane_is_all_that_uses_one_server_or_one_file() -> None:
    assert lane("tests/e2e/test_demo.py::test_both") == "stack"
    assert lane("tests/contracts/test_documents.py::test_one[official]") == "official"
    assert lane("tests/domain/test_tasks.py::test_one[a::b]") == "tests/domain/test_tasks.py"


def test_every_lane_is_of_files_that_exist() -> None:
    paths = [path for paths in LANES.values() for path in paths]
    paths += [name for name in LONG if name not in LANES]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_make_runs_them_on_several_processes() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert "-m pytest -p tests.lanes --processes $(PROCESSES) $(TESTS)" in makefile


SERVER = """
import os, time, warnings
from pathlib import Path

import pytest

@pytest.fixture(scope="session")
def server(pytestconfig):
    yield
    with (pytestconfig.rootpath / "ended").open("a") as ended:
        ended.write(f"{os.getpid()} ")

def test_begins(server): warnings.warn("beware")
"""
DIES = SERVER + "def test_dies(): os._exit(7)\ndef test_goes_on(server): pass\n"
FAILS = SERVER + "def test_fails(): print('said before'); assert [1] == [2]\ndef test_skipped(): pytest.skip('why')\n"


def _run(folder: Path, *options: str, **files: str) -> tuple[str, int, int]:
    """What a run on two processes says, how it ends, and how many servers have been ended."""
    for name, text in files.items():
        (folder / f"test_{name}.py").write_text(text, "utf-8")
    # As a shell starts what runs in the background: deaf to SIGINT.
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
    command += [sys.executable, "-m", "pytest", "-p", "tests.lanes", "--processes", "2", "-ra", *options, str(folder)]
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    run = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=os.environ | alone, check=False, timeout=50
    )
    return run.stdout, run.returncode, len((folder / "ended").read_text("utf-8").split())


def test_what_came_of_each_test_is_told_as_if_one_process_had_run_them(tmp_path: Path) -> None:
    said, status, ended = _run(tmp_path, fails=FAILS, passes=SERVER)
    assert "1 failed, 2 passed, 1 skipped, 2 warnings" in said
    assert "FAILED test_fails.py::test_fails - assert [1] == [2]" in said
    assert said.count("said before\n") == 1  # what it has written
    assert (status, ended) == (1, 2)  # what each process has started ends with it


def test_a_test_that_ends_its_process_fails_and_the_others_run(tmp_path: Path) -> None:
    said, status, _ = _run(tmp_path, dies=DIES, passes=SERVER)
    assert "1 failed, 3 passed, 2 warnings" in said
    assert "FAILED test_dies.py::test_dies" in said
    assert "The process that ran this test has ended with exit code 7." in said
    assert status == 1


def test_whoever_asks_to_stop_at_the_first_failure_waits_for_no_other_lane_and_nothing_stays(tmp_path: Path) -> None:
    waits = SERVER + "def test_waits(server): Path('waits').touch(); time.sleep(60)\n"
    fails = SERVER + "def test_fails(server):\n while not Path('waits').exists(): time.sleep(0.01)\n assert 0\n"
    said, status, ended = _run(tmp_path, "-x", fails=fails, waits=waits)
    assert "1 failed, 2 passed" in said
    assert (status, ended) == (1, 2)
