"""A run on several processes: what is one server for the whole run is started once."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
from tests.lanes import LANES, LONG, lane

ROOT = Path(__file__).resolve().parents[1]
SERVERS = {"stack": "stack", "official": "contracts"}  # fixture: lane


def test_tests_that_share_a_server_stay_on_one_process(request: pytest.FixtureRequest) -> None:
    """A file that begins to use one must be named in tests/lanes.py."""
    strays: dict[str, set[str]] = defaultdict(set)
    for item in request.session.items:
        for server, its_lane in SERVERS.items():
            if server in getattr(item, "fixturenames", ()) and lane(item.nodeid) != its_lane:
                strays[server].add(item.nodeid.partition("::")[0])
    assert dict(strays) == {}


def test_a_lane_is_all_that_uses_one_server_or_one_file() -> None:
    assert lane("tests/e2e/test_demo.py::test_both") == "stack"
    assert lane("tests/contracts/test_documents.py::test_one[official]") == "contracts"
    assert lane("tests/domain/test_tasks.py::test_one[a::b]") == "tests/domain/test_tasks.py"


def test_every_lane_is_of_files_that_exist() -> None:
    paths = [path for paths in LANES.values() for path in paths]
    paths += [name for name in LONG if name not in LANES]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_make_runs_them_on_several_processes_in_the_order_given() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert "-m pytest -n $(PROCESSES) --no-loadscope-reorder -p tests.lanes $(TESTS)" in makefile
