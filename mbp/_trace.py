"""Tracing across the services: W3C trace context in and out, one span for each piece of work, none of them lost.

A service makes one :class:`Tracing`. :class:`Traced` puts a span around each request and the span's own `traceparent`
in the place of the one that came, so that whatever is passed on or written down belongs to the right trace without
further ado; :func:`child` puts a span around a part of the work, wherever it is called; :func:`outgoing` gives the
headers for a request of our own. Every span is sampled, whatever the caller's flags say, and exported as it ends.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, TraceFlags
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from mbp._spans import SpanFile

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

FOLDER = "MBP_TRACES_DIR"
HEADER = b"traceparent"
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.ASCII)

Attributes = Mapping[str, str | int | float | bool]
#: The name of the span of a request, from its method and path; None for a request that has none.
Naming = Callable[[str, str], str | None]

_active: ContextVar[Tracing | None] = ContextVar("mbp_tracing", default=None)


def _parse(header: str | None) -> tuple[str, str] | None:
    found = _TRACEPARENT.fullmatch(header.strip()) if header else None
    if found is None or found[1] == "ff" or (found[1] == "00" and found[4]):
        return None
    return (found[2], found[3]) if found[2].strip("0") and found[3].strip("0") else None


def trace_id_of(header: str | None) -> str | None:
    """Return the trace id (32 hex digits) in a ``traceparent`` header; None when there is none or it is not valid.

    As the specification has it: version ``ff`` and all-zero ids are invalid, and only a later version may have more
    than the four fields.
    """
    found = _parse(header)
    return None if found is None else found[0]


def _remote(header: str | None) -> Context:
    """Return the context that a header names; an empty one, for a new trace, when it names none."""
    found = _parse(header)
    if found is None:
        return Context()
    remote = SpanContext(int(found[0], 16), int(found[1], 16), is_remote=True, trace_flags=TraceFlags(1))
    return trace.set_span_in_context(NonRecordingSpan(remote), Context())


class _Counter(SpanProcessor):
    """Counts spans as they end, by name."""

    def __init__(self) -> None:
        self.ended: dict[str, int] = {}
        self._lock = Lock()

    def on_end(self, span: ReadableSpan) -> None:
        with self._lock:
            self.ended[span.name] = self.ended.get(span.name, 0) + 1


class _Ids(RandomIdGenerator):
    """Random ids, but for the trace id of a span that joins a trace that is known by its id only."""

    def __init__(self) -> None:
        self.joined: ContextVar[int | None] = ContextVar("mbp_joined", default=None)

    def generate_trace_id(self) -> int:
        known = self.joined.get()
        return super().generate_trace_id() if known is None else known


class Tracing(Collector):
    """The spans of one service."""

    def __init__(
        self, service: str, exporter: SpanExporter | None = None, resource: Mapping[str, str] | None = None
    ) -> None:
        """Make the tracer; without an exporter spans are counted and passed on, and kept nowhere."""
        self.service, self._exporter = service, exporter
        self._counter, self._ids = _Counter(), _Ids()
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            id_generator=self._ids,
            resource=Resource({"service.name": service, **(resource or {})}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(self._counter)
        if exporter is not None:
            # One by one as they end: a batch in memory would be lost with the process, and a full queue drops.
            self._provider.add_span_processor(SimpleSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("mbp")

    @classmethod
    def of_process(cls, service: str, part: str | None = None) -> Tracing:
        """Return the tracing of this process: to a file of its own in the folder that ``MBP_TRACES_DIR`` names.

        ``part`` tells processes of one service apart (the release). Raises OSError when the folder cannot be used.
        """
        folder, resource = os.environ.get(FOLDER), {"service.instance.id": part} if part else {}
        if not folder:
            return cls(service, None, resource)
        name = f"{service}-{part}" if part else service
        return cls(service, SpanFile(Path(folder), name, {"service.name": service, **resource}), resource)

    @contextmanager
    def span(
        self,
        name: str,
        *,
        parent: str | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes | None = None,
    ) -> Iterator[Span]:
        """Put a span around a block: under the header ``parent``, or without one as the root of a new trace."""
        with self._span(name, _remote(parent), kind, attributes) as span:
            yield span

    def record(self, name: str, trace_id: str | None, began: float, attributes: Attributes | None = None) -> None:
        """Write down work on a record that is done now and began at ``began`` (Unix seconds).

        The record says which trace it came from by its id alone (32 hex digits), so the span has no parent there; a
        record that says nothing begins a trace of its own.
        """
        token = self._ids.joined.set(int(trace_id, 16) if trace_id else None)
        try:
            start = int(began * 1e9)
            self._tracer.start_span(name, Context(), SpanKind.CONSUMER, attributes, start_time=start).end()
        finally:
            self._ids.joined.reset(token)

    @contextmanager
    def _span(
        self, name: str, context: Context | None, kind: SpanKind, attributes: Attributes | None
    ) -> Iterator[Span]:
        token = _active.set(self)
        try:
            with self._tracer.start_as_current_span(name, context, kind, attributes, record_exception=False) as span:
                yield span
        finally:
            _active.reset(token)

    def export_to(self, registry: CollectorRegistry) -> None:
        """Add ``trace_spans_total{service,name}`` and ``trace_spans_dropped_total{service}`` to a registry."""
        registry.register(self)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the two families."""
        spans = CounterMetricFamily("trace_spans", "Spans that ended, by name.", labels=["service", "name"])
        for name, count in sorted(self._counter.ended.items()):
            spans.add_metric([self.service, name], count)
        dropped = CounterMetricFamily("trace_spans_dropped", "Spans that could not be written.", labels=["service"])
        dropped.add_metric([self.service], getattr(self._exporter, "dropped", 0))
        yield from (spans, dropped)


@contextmanager
def child(name: str, attributes: Attributes | None = None) -> Iterator[Span]:
    """Put a span around a part of the work under way; where no request is traced, nothing is."""
    tracing = _active.get()
    if tracing is None:
        yield trace.INVALID_SPAN
        return
    with tracing._span(name, None, SpanKind.INTERNAL, attributes) as span:
        yield span


def traceparent() -> str | None:
    """Return the ``traceparent`` of the current span; None where there is none."""
    context = trace.get_current_span().get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01" if context.is_valid else None


def current_trace_id() -> str | None:
    """Return the trace id (32 hex digits) of the current span; None where there is none."""
    return trace_id_of(traceparent())


def outgoing() -> dict[str, str]:
    """Return the headers that put a request of our own under the current span."""
    header = traceparent()
    return {} if header is None else {"traceparent": header}


class Traced:
    """ASGI middleware that puts a span around each request that ``naming`` names.

    What is inside sees, as the request's ``traceparent``, that of the span: passed on, it makes the next service's span
    a child of this one; written down, its trace id is that of the request, also when the client sent none.
    """

    def __init__(self, app: ASGIApp, tracing: Tracing, naming: Naming) -> None:
        """Wrap ``app``."""
        self.app, self.tracing, self.naming = app, tracing, naming

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on under a span; its status is the span's, and 5xx (or no answer) is an error."""
        name = self.naming(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if name is None:
            await self.app(scope, receive, send)
            return
        given = next((value for key, value in scope["headers"] if key == HEADER), b"")
        about = {"http.request.method": scope["method"], "url.path": scope["path"]}
        status = 500

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self.tracing.span(name, parent=given.decode("latin-1"), kind=SpanKind.SERVER, attributes=about) as span:
            headers = [pair for pair in scope["headers"] if pair[0] != HEADER]
            own = (traceparent() or "").encode("ascii")
            try:
                await self.app({**scope, "headers": [*headers, (HEADER, own)]}, receive, seen)
            finally:
                span.set_attribute("http.response.status_code", status)
                if status >= 500:
                    span.set_status(StatusCode.ERROR)
