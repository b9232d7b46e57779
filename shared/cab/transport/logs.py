"""Logs as the platform wants them: one JSON object per line with a severity. Exceptions give type and place, never their text."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Final

import orjson

from cab.encoding.trace_context import current

# The MCP SDK's client. Its lines quote what a server wrote, the user's token if that is in it, and there are as many as the server
# likes. What came of a call is on record.
_QUOTING_OTHERS: Final = ("client", "mcp.client", "mcp.shared.tool_name_validation")


class JsonLines(logging.Formatter):
    """`said`, given with `extra`, are members of the line beside its message: what filters and metrics look at.

    Lines of one request are joined by its trace, in the members that Cloud Logging reads.
    """

    def __init__(self, project: str) -> None:
        super().__init__()
        self._project = project

    def format(self, record: logging.LogRecord) -> str:
        line = dict(getattr(record, "said", {}))
        line |= {"severity": record.levelname, "logger": record.name, "message": record.getMessage()}
        trace = current.get()
        if trace is not None:
            line["logging.googleapis.com/trace"] = f"projects/{self._project}/traces/{trace.trace_id}"
            line["logging.googleapis.com/trace_sampled"] = trace.is_sampled
            if trace.span_id is not None:
                line["logging.googleapis.com/spanId"] = trace.span_id
        if record.exc_info and record.exc_info[0] is not None:
            frames = traceback.extract_tb(record.exc_info[2])[-5:]
            line["exception"] = record.exc_info[0].__name__
            line["where"] = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames))
        return orjson.dumps(line).decode()


def configure_logging(project: str) -> None:
    """Warnings and worse of everybody to standard error. Request lines are the platform's job, and hold query strings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(project))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in _QUOTING_OTHERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
