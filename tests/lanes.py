"""How several processes share a run of the tests: a plugin, `pytest -n 3 -p tests.lanes`."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

LANES = {
    "stack": (
        "tests/browser/",
        "tests/client/test_newcomer.py",
        "tests/client/test_one_suite_on_both_brokers.py",
        "tests/e2e/test_api_document.py",
        "tests/e2e/test_audit_pipeline.py",
        "tests/e2e/test_bad_input.py",
        "tests/e2e/test_call_mode.py",
        "tests/e2e/test_demo.py",
        "tests/e2e/test_drills.py",
        "tests/e2e/test_killed_calls.py",
        "tests/e2e/test_narrowing.py",
        "tests/e2e/test_notes.py",
        "tests/e2e/test_openapi.py",
        "tests/e2e/test_public_clients.py",
        "tests/e2e/test_single_use_across_processes.py",
        "tests/e2e/test_stack.py",
        "tests/e2e/test_trusted_connections.py",
        "tests/e2e/test_zz_canary.py",
        "tests/e2e/test_zz_permissions.py",
    ),
    "contracts": (
        "tests/contracts/test_audit_log.py",
        "tests/contracts/test_documents.py",
        "tests/contracts/test_quarantine.py",
        "tests/contracts/test_secret_vault.py",
    ),
    "emulators": ("tests/dev/emulators/", "tests/adapters/google_cloud/"),
    "terraform": ("tests/terraform/",),
}
"""The files, or folders, whose tests stay on one process, one after another. The first lane is named after the fixture that
it uses, of which there is one for the whole run. The tests of any other file are a lane too."""

LONG = ("stack", "emulators", "contracts", "tests/e2e/test_failure_times.py", "terraform")
"""What is begun with, since a run cannot end before its longest lane has."""


def lane(nodeid: str) -> str:
    file = nodeid.partition("::")[0]
    return next((name for name, paths in LANES.items() if file.startswith(paths)), file)


class LaneScheduling(LoadScopeScheduling):  # type: ignore[misc] # it has no types
    """`--dist loadgroup` would be for this, but xdist 3.8 scatters groups under pytest 9.2 (its issue 1386)."""

    def _split_scope(self, nodeid: str) -> str:
        return lane(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return LaneScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(name) if (name := lane(item.nodeid)) in LONG else len(LONG))
