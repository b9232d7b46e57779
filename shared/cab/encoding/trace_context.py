"""Which trace a request belongs to: W3C Trace Context (`traceparent`, version 00), or the platform's own older header.

A trace id is the sender's word: it joins log lines, audit events and calls to others, and decides nothing. What the process
does for a request carries its trace in `current`.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import Final

from cab.values import immutable

TRACEPARENT: Final = "traceparent"
_W3C: Final = re.compile(r"[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?:-.*)?")
_PLATFORM: Final = re.compile(r"(?P<trace>[0-9a-f]{32})(?:/(?P<span>[0-9]{1,20}))?(?:;o=(?P<sampled>[01]))?(?:/.*)?")
_SAMPLED: Final = 1


@immutable
class TraceContext:
    trace_id: str  # 32 hexadecimal digits
    span_id: str | None = None  # 16, of the caller
    is_sampled: bool = False

    @property
    def traceparent(self) -> str | None:
        """As it is sent on; None without a span, which the header cannot do without. Section 3.2."""
        return None if self.span_id is None else f"00-{self.trace_id}-{self.span_id}-{_SAMPLED * self.is_sampled:02x}"


current: Final[ContextVar[TraceContext | None]] = ContextVar("trace", default=None)


def read_trace(traceparent: str | None, platform: str | None) -> TraceContext | None:
    """The trace that two headers name, the standard's before the platform's. None where neither is readable. Section 3.2.2."""
    found = _W3C.fullmatch(traceparent) if traceparent else None
    if found and not found[0].startswith("ff") and any(c != "0" for c in found["trace"]):
        if all(c == "0" for c in found["span"]):
            return None
        return TraceContext(found["trace"], found["span"], bool(int(found["flags"], 16) & _SAMPLED))
    found = _PLATFORM.fullmatch(platform) if platform else None
    if found is None:
        return None
    number = int(found["span"] or 0)
    return TraceContext(found["trace"], f"{number:016x}" if 0 < number < 1 << 64 else None, found["sampled"] == "1")
