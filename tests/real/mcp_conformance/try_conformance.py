"""The conformance suite of the Model Context Protocol against call_tool, as a server and as a client of servers, at both revisions.

    MCP_CONFORMANCE="node .../@modelcontextprotocol/conformance/dist/index.js" pytest tests/real/mcp_conformance/try_conformance.py

Tried with 0.2.0-alpha.12, which needs Node 22. What is expected to fail stands beside this file, each line with its reason. As a client,
all scenarios that the revision requires are run but `auth/`: they want a client that registers itself and logs in where a server sends
it, while here an operator configures the provider and the user connects it in the pages (tests/e2e/test_notes.py).
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

from cab_dev.processes.ports import PortLeases

HERE = Path(__file__).parent
REVISIONS = ("2025-11-25", "2026-07-28")
AS_CLIENT = {
    "2025-11-25": (
        "initialize",
        "tools_call",
        "elicitation-sep1034-client-defaults",
        "sse-retry",
        "json-schema-2020-12-preservation",
    ),
    "2026-07-28": (
        "tools_call",
        "request-metadata",
        "sep-2322-client-request-state",
        "http-standard-headers",
        "http-custom-headers",
        "http-invalid-tool-headers",
        "json-schema-ref-no-deref",
        "json-schema-2020-12-preservation",
    ),
}
CLIENT = f"{sys.executable} -m tests.real.mcp_conformance.call"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with PortLeases() as leases:
        port = leases.take_free()
        command = [sys.executable, "-m", "tests.real.mcp_conformance.serve", str(port)]
        with subprocess.Popen(command, start_new_session=True) as process:
            address = f"http://localhost:{port}/mcp"
            deadline = time.monotonic() + 60
            while True:
                assert process.poll() is None
                assert time.monotonic() < deadline
                try:
                    if requests.get(address, timeout=2).status_code == 405:
                        break
                except requests.RequestException:
                    time.sleep(0.2)
            yield address
            os.killpg(process.pid, signal.SIGTERM)


@pytest.mark.parametrize("revision", REVISIONS)
def test_nothing_fails_but_what_is_expected_to(url: str, revision: str, tmp_path: Path) -> None:
    expected = HERE / f"expected-failures-{revision}.yaml"
    suite = shlex.split(os.environ["MCP_CONFORMANCE"])
    done = subprocess.run(
        [*suite, "server", "--url", url, "--requirements", revision, "--expected-failures", expected, "-o", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize(("revision", "scenario"), [(one, name) for one in REVISIONS for name in AS_CLIENT[one]])
def test_as_a_client_nothing_fails_but_what_is_expected_to(revision: str, scenario: str, tmp_path: Path) -> None:
    """Each by itself: the suite would start all of them at once, and give each half a minute."""
    expected = HERE / f"client-expected-failures-{revision}.yaml"
    suite = shlex.split(os.environ["MCP_CONFORMANCE"])
    asked = ("--scenario", scenario, "--spec-version", revision)
    done = subprocess.run(
        [*suite, "client", "--command", CLIENT, *asked, "--expected-failures", expected, "-o", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("revision", REVISIONS)
def test_no_scenario_of_the_revision_is_left_out_but_those_of_logging_in(revision: str) -> None:
    required = yaml.safe_load((_suite_folder() / "requirements" / f"{revision}.yaml").read_text("utf-8"))
    assert {name for name in required["client"] if not name.startswith("auth/")} <= set(AS_CLIENT[revision])


def _suite_folder() -> Path:
    return Path(shlex.split(os.environ["MCP_CONFORMANCE"])[-1]).resolve().parents[1]


@pytest.mark.parametrize("side", ["", "client-"])
@pytest.mark.parametrize("revision", REVISIONS)
def test_each_expected_failure_has_a_reason(revision: str, side: str) -> None:
    lines = (HERE / f"{side}expected-failures-{revision}.yaml").read_text("utf-8").splitlines()
    for line in lines[2:]:
        assert re.fullmatch(r"  - \S+ # .{20,}", line), line
