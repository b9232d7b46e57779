"""Ends the services of a supervisor that died without stopping them.

Run as a script by `cab_dev.processes.supervisor`, with a pipe as standard input. The supervisor writes `+PGID` when it has started
a process group and `-PGID` when the group is gone. The pipe closes when the supervisor ends, however it ends: what is
still listed then gets SIGTERM, and SIGKILL after the grace period. Standard library only, so that it starts in 20 ms.
"""

from __future__ import annotations

import os
import signal
import sys
import time

GRACE_S = 8.0


def _signal(group: int, number: int) -> bool:
    """Whether the group still exists."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS answers EPERM for a group that holds only zombies
        return False
    return True


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # only the end of the pipe counts
    groups: set[int] = set()
    for line in sys.stdin:
        if line.startswith("+"):
            groups.add(int(line[1:]))
        else:
            groups.discard(int(line[1:]))
    groups = {group for group in groups if _signal(group, signal.SIGTERM)}
    deadline = time.monotonic() + GRACE_S
    while groups and time.monotonic() < deadline:
        time.sleep(0.05)
        groups = {group for group in groups if _signal(group, 0)}
    for group in groups:
        _signal(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
