"""SQLite as the emulators use it: one file per service, or memory, from one thread only."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY = ":memory:"


def open_database(data_dir: str, name: str, schema: str) -> sqlite3.Connection:
    """Open `NAME.sqlite3` in the folder `data_dir`, which is made if missing; ":memory:" keeps nothing.

    What was committed survives a kill of the process, not a crash of the machine (`synchronous=off`).
    """
    if data_dir == MEMORY:
        path = MEMORY
    else:
        folder = Path(data_dir)
        folder.mkdir(parents=True, exist_ok=True)
        path = str(folder / f"{name}.sqlite3")
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript("pragma journal_mode=wal; pragma synchronous=off;" + schema)
    return connection


@contextmanager
def atomically(connection: sqlite3.Connection) -> Iterator[None]:
    """All writes of the block, or none of them when it raises."""
    connection.execute("begin")
    try:
        yield
    except BaseException:
        connection.execute("rollback")
        raise
    connection.execute("commit")


def prefix_range(prefix: str) -> tuple[str, str]:
    """The half-open range of names that start with `prefix`; unlike LIKE it is exact and uses the index."""
    return prefix, prefix + chr(0x10FFFF)
