"""`AuditRows` as a file of JSON lines: for the local stack where no BigQuery emulator is available. Refused in the cloud."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import orjson

from cab.ports import AuditRow, Unavailable


class RowsFile:
    """Appends; one line per row, duplicates included, as BigQuery keeps them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def insert(self, rows: Sequence[AuditRow]) -> dict[int, str]:
        try:
            await asyncio.to_thread(
                self._append, b"".join(orjson.dumps(orjson.loads(row.text)) + b"\n" for row in rows)
            )
        except OSError as error:
            raise Unavailable("audit") from error
        return {}

    def _append(self, lines: bytes) -> None:
        with self._path.open("ab") as file:
            file.write(lines)
