"""What all twins share: the warning that they keep nothing."""

from __future__ import annotations

import os
import warnings


class TwinInUse(UserWarning):
    """An in-memory twin stands where a durable store belongs."""


def warn_of_twin(twin: object) -> None:
    """Warn that `twin` is being built, unless a test runs. Called by the twin's constructor."""
    if "PYTEST_VERSION" not in os.environ:
        warnings.warn(
            f"{type(twin).__name__} forgets everything when the process ends. It is for tests.",
            TwinInUse,
            stacklevel=3,
        )
