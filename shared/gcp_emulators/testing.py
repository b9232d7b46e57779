"""For test suites that run on the embedded and on the official emulators alike."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from gcp_emulators.official import NotInstalled
from gcp_emulators.running import ALL_SERVICES, Emulators, Kind, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gcp_emulators.faults import Service


def official_is_required(environment: Mapping[str, str]) -> bool:
    """Whether tests on the official emulators must run: in CI, and wherever CAB_REQUIRE_OFFICIAL=1."""
    return environment.get("CAB_REQUIRE_OFFICIAL") == "1" or environment.get("CI") == "true"


@contextmanager
def running_for_tests(
    kind: Kind, services: Sequence[Service] = ALL_SERVICES, *, identity_url: str | None = None
) -> Iterator[Emulators]:
    """Emulators of this kind until the block ends.

    Official ones that are not installed skip the test with the reason, or fail it where they are required.
    """
    with ExitStack() as stack:
        try:
            emulators = stack.enter_context(running(kind, services, identity_url=identity_url))
        except NotInstalled as exc:
            if official_is_required(os.environ):
                pytest.fail(f"{exc} They are required here: CI=true or CAB_REQUIRE_OFFICIAL=1.")
            pytest.skip(str(exc))
        yield emulators
