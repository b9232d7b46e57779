"""Logs as the platform wants them: one JSON object per line with a severity. Exceptions give type and place, never their text."""

from __future__ import annotations

import logging
import sys
import traceback

import orjson


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"severity": record.levelname, "logger": record.name, "message": record.getMessage()}
        if record.exc_info and record.exc_info[0] is not None:
            frames = traceback.extract_tb(record.exc_info[2])[-5:]
            line["exception"] = record.exc_info[0].__name__
            line["where"] = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames))
        return orjson.dumps(line).decode()


def configure_logging() -> None:
    """Warnings and worse of everybody to standard error. Request lines are the platform's job, and hold query strings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
