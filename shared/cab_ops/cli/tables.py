"""Rows as an aligned table that fits a terminal. A cell that had to be shortened ends in `…`; nothing in a cell acts on the terminal."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Any, Final

from cab.domain.text.safe import plain

WIDTH: Final = 120
ELLIPSIS: Final = "…"
_GAP: Final = 2
_MIN: Final = 8  # of any column that holds more


@dataclass(frozen=True, slots=True)
class Column:
    """`key` of the rows under a `title`. Where space is short, `short` ones (keys whose beginning is enough) give way first,
    `keep` ones (whose end tells them apart) last."""

    key: str
    title: str
    short: bool = False
    keep: bool = False


def table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], *, width: int = WIDTH) -> str:
    """A header, a rule and one line per row, none wider than `width`. Columns without any value are left out.

    More columns than fit side by side make one block of lines per row instead.
    """
    shown = [column for column in columns if any(row.get(column.key) not in (None, [], "") for row in rows)]
    cells = [[text_of(row.get(column.key)) for column in shown] for row in rows]
    titles = [column.title for column in shown]
    natural = [max(map(columns_of, [title, *texts])) for title, *texts in zip(titles, *cells, strict=True)]
    widths = _fitted(shown, natural, width)
    if _total(widths) > width:
        return _records(titles, cells, width)
    numeric = [all(isinstance(row.get(column.key), int | float | None) for row in rows) for column in shown]
    lines = [
        _line(titles, widths, numeric),
        "  ".join("─" * size for size in widths),
        *(_line(texts, widths, numeric) for texts in cells),
    ]
    return "\n".join(line.rstrip() for line in lines)


def text_of(value: Any) -> str:
    """A cell's text: instants in UTC to the second, days as dates, lists joined, everything printable."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        instant = value.astimezone(UTC)
        midnight = instant.time() == time()
        return instant.strftime("%Y-%m-%d") if midnight else instant.strftime("%m-%d %H:%M:%S")
    if isinstance(value, list):
        return ", ".join(text_of(item) for item in value)
    if isinstance(value, dict):
        return plain(json.dumps(value, default=str))
    return plain(str(value))


def columns_of(text: str) -> int:
    """How many terminal columns a text takes."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def shortened(text: str, size: int) -> str:
    """`text` in at most `size` columns, marked where something is missing."""
    if columns_of(text) <= size:
        return text
    kept = ""
    for char in text:
        if columns_of(kept + char) > size - 1:
            break
        kept += char
    return kept + ELLIPSIS


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _records(titles: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> str:
    """Too many columns for one line each: one block per row, one line per value that there is."""
    lead = max(map(columns_of, titles)) + _GAP
    blocks = [
        "\n".join(
            f"{title:<{lead}}{shortened(text, width - lead)}" for title, text in zip(titles, texts, strict=True) if text
        )
        for texts in cells
    ]
    return "\n\n".join(blocks)


def _fitted(columns: Sequence[Column], natural: Sequence[int], width: int) -> list[int]:
    """Natural widths where they fit. Else columns give way in rounds, in each the widest first."""
    widths = list(natural)
    rounds = ([column.short for column in columns], [not column.keep for column in columns], [True] * len(columns))
    for shrinking in rounds:
        while _total(widths) > width:
            candidates = [place for place, may in enumerate(shrinking) if may and widths[place] > _MIN]
            if not candidates:
                break
            widths[max(candidates, key=lambda place: widths[place])] -= 1
    return widths


def _line(texts: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    cells = []
    for text, size, right in zip(texts, widths, numeric, strict=True):
        cell = shortened(text, size)
        padding = " " * (size - columns_of(cell))
        cells.append(padding + cell if right else cell + padding)
    return (" " * _GAP).join(cells)
