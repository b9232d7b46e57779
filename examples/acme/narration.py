"""Prints the demo: who does what, line by line, at most 100 columns wide; colours only on a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from io import TextIOWrapper
from typing import TextIO

WIDTH = 100
_WHO = 10  # columns of the actor's name
_INDENT = " " * (_WHO + 4)


class Narration:
    """Tells and counts: every `fact` that does not hold makes the demo fail."""

    def __init__(self, stream: TextIO) -> None:
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(
                errors="replace", line_buffering=True
            )  # a terminal that lacks a sign still shows the story
        self._stream = stream
        self._colours = stream.isatty()
        self.held = 0
        self.failed = 0

    def title(self, text: str) -> None:
        self._print(self._paint("1", text))
        self._print()

    def chapter(self, heading: str, explanation: str) -> None:
        self._print()
        self._print(self._paint("1;36", f"━━ {heading} ".ljust(WIDTH, "━")))
        self._print(f"   {explanation}")
        self._print()

    def step(self, who: str, what: str, more: str = "") -> None:
        self._line(self._paint("36", who.rjust(_WHO)), what)
        if more:
            self._line(" " * _WHO, self._paint("2", more))

    def refusal(self, who: str, what: str) -> None:
        self._line(self._paint("36", who.rjust(_WHO)), self._paint("33", what))

    def answer(self, user: str, text: str) -> None:
        self._print()
        for line in textwrap.wrap(f"to {user}: {text}", WIDTH - len(_INDENT)):
            self._print(_INDENT + self._paint("1", line))
        self._print()

    def fact(self, text: str, *, holds: bool) -> None:
        """Something that must be true, shown with a tick or a cross."""
        if holds:
            self.held += 1
        else:
            self.failed += 1
        sign = self._paint("32", "✓") if holds else self._paint("1;31", "✗ NOT TRUE:")
        self._print(f"{_INDENT}{sign} {text}")

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Columns as wide as their content; the widest is cut until the line fits."""
        cells = [tuple(str(cell) for cell in row) for row in (heads, *rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
        while sum(widths) + 2 * (len(widths) - 1) > WIDTH:
            widths[widths.index(max(widths))] -= 1
        self._print()
        for number, row in enumerate(cells):
            line = "  ".join(_fit(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip()
            self._print(self._paint("1", line) if number == 0 else line)
        self._print()

    def verdict(self) -> None:
        self._print()
        total = self.held + self.failed
        if self.failed:
            self._print(self._paint("1;31", f"{self.failed} of {total} facts do not hold."))
        else:
            self._print(self._paint("1;32", f"All {total} facts hold."))
        self._print()

    def _line(self, who: str, what: str) -> None:
        self._print(f"{who}    {what}")

    def _print(self, text: str = "") -> None:
        self._stream.write(text + "\n")

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colours and text else text


def _fit(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else text[: width - 1] + "…"
