"""`Recorder` on the OpenTelemetry SDK: spans leave by OTLP over HTTP, beside the requests.

Imported only where traces are turned on: the SDK and its exporter take longer to load than a function has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

import google.auth
import google.auth.transport.requests
import requests
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, set_span_in_context
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace.status import Status, StatusCode

from cab.adapters.spans import Fact
from cab.encoding.trace_context import TraceContext, current
from cab.ports import AlreadyExists, Conflict, NotFound

GOOGLE: Final = "telemetry.googleapis.com"
_SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
_EXPORT_WITHIN_S: Final = 5.0  # what waits when the process is told to stop has to leave before it is killed
_WAITING_SPANS: Final = 2_048  # more are dropped: a trace is no record
_ANSWERS: Final = (AlreadyExists, Conflict, NotFound)  # of a store, and as good as any
_IGNORED: Final = Context()  # nothing of this process's own OpenTelemetry context: ours is `trace_context.current`


class OpenTelemetry:
    """`ratio` of the traces is recorded, chosen by their ids, so that all functions choose the same; and every trace that its caller
    records. The platform's own word that it does not record a request counts for nothing: it says so of nearly all.
    """

    def __init__(self, exporter: SpanExporter, *, ratio: float, service: str, revision: str, project: str) -> None:
        by_id = TraceIdRatioBased(ratio)
        self._provider = TracerProvider(
            sampler=ParentBased(by_id, remote_parent_not_sampled=by_id),
            resource=Resource(
                {"service.name": service, "service.version": revision, "gcp.project_id": project, "faas.name": service}
            ),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=_WAITING_SPANS))
        self._tracer = self._provider.get_tracer("cab")

    @contextmanager
    def span(self, name: str, *, of_request: bool = False) -> Iterator[_Noted]:
        started = self._tracer.start_span(
            name,
            context=_following(current.get()),
            kind=SpanKind.SERVER if of_request else SpanKind.CLIENT,
            record_exception=False,  # its text may quote what was sent
            set_status_on_exception=False,
        )
        own = started.get_span_context()
        token = current.set(
            TraceContext(f"{own.trace_id:032x}", f"{own.span_id:016x}", is_sampled=own.trace_flags.sampled)
        )
        try:
            yield _Noted(started)
        except BaseException as error:
            started.set_attribute("error.type", type(error).__name__)
            if not isinstance(error, _ANSWERS):
                started.set_status(Status(StatusCode.ERROR))
            raise
        finally:
            current.reset(token)
            started.end()

    async def close(self) -> None:
        """Sends what still waits, for some seconds."""
        await asyncio.to_thread(self._provider.shutdown)


class _Noted:
    def __init__(self, span: OtelSpan) -> None:
        self._span = span

    def note(self, name: Fact, value: str | int) -> None:
        self._span.set_attribute(name, value)


def _following(trace: TraceContext | None) -> Context:
    if trace is None or trace.span_id is None:
        return _IGNORED
    parent = SpanContext(
        int(trace.trace_id, 16),
        int(trace.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if trace.is_sampled else TraceFlags.DEFAULT),
    )
    return set_span_in_context(NonRecordingSpan(parent), _IGNORED)


def exporter(endpoint: str) -> SpanExporter:
    """To Google as this function's own account; to any other collector without credentials, which are none of its business."""
    session = requests.Session()
    if urlsplit(endpoint).hostname == GOOGLE:
        credentials, _ = google.auth.default(scopes=[_SCOPE])
        session = google.auth.transport.requests.AuthorizedSession(credentials)
    return OTLPSpanExporter(endpoint=endpoint, session=session, timeout=_EXPORT_WITHIN_S)
