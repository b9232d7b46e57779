"""The conformance suite of the Model Context Protocol against call_tool, at both revisions.

    MCP_CONFORMANCE="node .../@modelcontextprotocol/conformance/dist/index.js" pytest tests/real/mcp_conformance/try_conformance.py

Tried with 0.2.0-alpha.12, which needs Node 22. What is expected to fail stands beside this file, each line with its reason.
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

from cab_dev.processes.ports import PortLeases

HERE = Path(__file__).parent
REVISIONS = ("2025-11-25", "2026-07-28")


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


@pytest.mark.parametrize("revision", REVISIONS)
def test_each_expected_failure_has_a_reason(revision: str) -> None:
    lines = (HERE / f"expected-failures-{revision}.yaml").read_text("utf-8").splitlines()
    for line in lines[2:]:
        assert re.fullmatch(r"  - \S+ # .{20,}", line), line
