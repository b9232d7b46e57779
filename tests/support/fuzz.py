"""How long to fuzz: briefly in every run, as long as wanted with `CAB_FUZZ_FACTOR=1000 pytest tests/protocol`."""

from __future__ import annotations

import os

from hypothesis import settings

FACTOR = int(os.environ.get("CAB_FUZZ_FACTOR", "1"))


def fuzz(examples: int) -> settings:
    return settings(max_examples=examples * FACTOR, deadline=None)
