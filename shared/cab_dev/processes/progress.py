"""What a person sees while a stack starts, runs and stops: one plain line per service, no control codes in a log file.

On a terminal one more line at the bottom, rewritten in place, tells what is still awaited.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Collection
from typing import TextIO

_JWT = re.compile(r"eyJ[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*){1,4}")
_LONG_OPAQUE = re.compile(r"\b[A-Za-z0-9_-]{40,}={0,2}")


def without_tokens(text: str) -> str:
    """The text with everything that may be a token or key replaced: for showing log lines to people."""
    return _LONG_OPAQUE.sub("[opaque]", _JWT.sub("[token]", text))


class Progress:
    """Prints to one stream. Not thread-safe."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live = stream.isatty()
        self._footer = ""
        self._started = time.monotonic()

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def line(self, text: str = "") -> None:
        """One line that stays."""
        erase = f"\r{' ' * len(self._footer)}\r" if self._footer else ""
        self._write(f"{erase}{text}\n{self._footer}")

    def ready(self, name: str, seconds: float, detail: str) -> None:
        self.line(f"  {self._green('ready')}  {name:<18} {seconds:5.1f} s  {detail}".rstrip())

    def trouble(self, text: str) -> None:
        """A failure: a sentence, perhaps with log lines behind it."""
        first, *rest = text.splitlines()
        self.line(self._red(first))
        for line in rest:
            self.line(line)

    def awaiting(self, names: Collection[str]) -> None:
        """Refresh the line at the bottom; an empty collection removes it. Does nothing when the stream is no terminal."""
        if not self._live:
            return
        erase = f"\r{' ' * len(self._footer)}\r"
        self._footer = ""
        if names:
            text = f"  {time.monotonic() - self._started:5.1f} s  waiting for {', '.join(names)}"
            self._footer = text[: shutil.get_terminal_size().columns - 1]
        self._write(erase + self._footer)

    def _green(self, text: str) -> str:
        return f"\x1b[32m{text}\x1b[0m" if self._live else text

    def _red(self, text: str) -> str:
        return f"\x1b[31m{text}\x1b[0m" if self._live else text
