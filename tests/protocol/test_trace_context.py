"""W3C Trace Context and the platform's older header."""

from __future__ import annotations

import pytest

from cab.encoding.trace_context import TraceContext, read_trace

TRACE = "0123456789abcdef0123456789abcdef"
SPAN = "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("traceparent", "platform", "read"),
    [
        (f"00-{TRACE}-{SPAN}-01", None, TraceContext(TRACE, SPAN, True)),
        (f"00-{TRACE}-{SPAN}-00", f"{'f' * 32}/1", TraceContext(TRACE, SPAN, False)),
        (f"01-{TRACE}-{SPAN}-01-more", None, TraceContext(TRACE, SPAN, True)),
        (f"ff-{TRACE}-{SPAN}-01", None, None),
        (f"00-{'0' * 32}-{SPAN}-01", None, None),
        (f"00-{TRACE}-{'0' * 16}-01", None, None),
        (f"00-{TRACE.upper()}-{SPAN}-01", f"{TRACE}/255;o=1", TraceContext(TRACE, f"{255:016x}", True)),
        (None, TRACE, TraceContext(TRACE)),
        (None, f"{TRACE}/18446744073709551616", TraceContext(TRACE)),
        (None, "'; DROP TABLE", None),
        (None, None, None),
    ],
)
def test_the_trace_of_a_request_is_read(
    traceparent: str | None, platform: str | None, read: TraceContext | None
) -> None:
    assert read_trace(traceparent, platform) == read


def test_what_is_read_is_sent_on_as_it_came() -> None:
    for flags in ("00", "01"):
        text = f"00-{TRACE}-{SPAN}-{flags}"
        found = read_trace(text, None)
        assert found is not None
        assert found.traceparent == text
    assert TraceContext(TRACE).traceparent is None
