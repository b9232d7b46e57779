"""Emulators of Firestore, Pub/Sub and Secret Manager for the local stack and the tests.  See docs/emulators.md.

`running()` starts them; `faults` says what can be made to go wrong.
"""

from __future__ import annotations

from gcp_emulators.official import NotInstalled
from gcp_emulators.processes import EmulatorFailed
from gcp_emulators.running import Emulators, running

__all__ = ["EmulatorFailed", "Emulators", "NotInstalled", "running"]
