"""What all fakes share: the warning that they keep nothing."""

from __future__ import annotations

import os
import warnings


class FakeInUse(UserWarning):
    """An in-memory fake is used where a durable store belongs."""


def warn_of_fake(fake: object) -> None:
    """Warn that `fake` is being built, unless a test runs. Called by the fake's constructor."""
    if "PYTEST_VERSION" not in os.environ:
        warnings.warn(
            f"{type(fake).__name__} forgets everything when the process ends. It is for tests.",
            FakeInUse,
            stacklevel=3,
        )
