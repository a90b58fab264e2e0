"""How long did what take, for OpenTelemetry? Spans, exported where the standard variables OTEL_* say so.

The one file that imports OpenTelemetry, and only once it is used: by `exporting`, or because the application around an
asker has set up tracing of its own. Else a span is None, and costs one look into a dictionary. A span's duration is
that of the monotonic clock; its place in time is the wall clock's at its start, and for display only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

from hub.trace_context import TraceContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer, TracerProvider

log = logging.getLogger(__name__)
Value = str | bool | int | float | Sequence[str]

LEAVE_S: Final = 2.0  # for the last spans, when the process ends
_NAME: Final = "edgefleet"
_own: Tracer | None = None


class Span:
    """Something that has begun; `context` is what names it elsewhere, None where nobody would take it."""

    def __init__(self, span: OtelSpan, start_ns: int, started_ns: int) -> None:
        self._span = span
        self._start_ns = start_ns
        self._started_ns = started_ns
        self.context = _context_of(span)

    def event(self, name: str, attributes: Mapping[str, Value]) -> None:
        """Something happened on the way."""
        if self._span.is_recording():
            self._span.add_event(name, dict(attributes), timestamp=self._now_ns())

    def end(self, attributes: Mapping[str, Value], error: str | None = None) -> None:
        """It is over; `error` is the failure code of what has failed."""
        self._span.set_attributes(dict(attributes))
        if error is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(end_time=self._now_ns())

    def _now_ns(self) -> int:
        return self._start_ns + time.monotonic_ns() - self._started_ns


def is_active() -> bool:
    """Whether spans are made."""
    return _tracer() is not None


def begin(
    name: str,
    kind: Literal["CLIENT", "SERVER", "INTERNAL"],
    attributes: Mapping[str, Value],
    *,
    parent: TraceContext | None = None,
    ago_ms: float = 0.0,
) -> Span | None:
    """Something that began `ago_ms` before now, within `parent` or else the caller's own span; None without tracing."""
    tracer = _tracer()
    if tracer is None:
        return None
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    within = None if parent is None else TraceContextTextMapPropagator().extract(dict(parent.properties()))
    ago_ns = int(ago_ms * 1e6)
    start_ns, started_ns = time.time_ns() - ago_ns, time.monotonic_ns() - ago_ns
    span = tracer.start_span(name, within, SpanKind[kind], dict(attributes), start_time=start_ns)
    return Span(span, start_ns, started_ns)


def use(provider: TracerProvider | None) -> None:
    """Make spans with this provider from now on, before one that the application may have."""
    global _own
    _own = None if provider is None else provider.get_tracer(_NAME)


@contextlib.contextmanager
def exporting(service: str, instance: str) -> Iterator[None]:
    """Export this process's spans over OTLP (HTTP) meanwhile, if OTEL_* says where to; `service` is its usual name.

    https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables
    """
    exporter = _exporter() if _is_wanted(os.environ) else None
    if exporter is None:
        yield
        return
    provider = _provider(exporter, service, instance)
    use(provider)
    try:
        yield
    finally:
        use(None)
        impatience = threading.Timer(LEAVE_S, exporter.shutdown)  # by itself it tries for as long as its time-out is
        impatience.start()
        provider.shutdown()
        impatience.cancel()


def _tracer() -> Tracer | None:
    if _own is not None:
        return _own
    trace = sys.modules.get("opentelemetry.trace")
    provider = None if trace is None else trace.get_tracer_provider()
    if trace is None or isinstance(provider, trace.ProxyTracerProvider):
        return None  # nobody has set one up
    tracer: Tracer = trace.get_tracer(_NAME)
    return tracer


def _context_of(span: OtelSpan) -> TraceContext | None:
    context = span.get_span_context()
    if not context.is_valid:
        return None
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 1:02x}"
    return TraceContext(parent, context.trace_state.to_header())


def _is_wanted(environment: Mapping[str, str]) -> bool:
    """Whether there is somewhere to export to, by a way that is known here."""
    endpoints = (environment.get(f"OTEL_EXPORTER_OTLP{kind}_ENDPOINT") for kind in ("_TRACES", ""))
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or not any(endpoints):
        return False
    exporter = environment.get("OTEL_TRACES_EXPORTER") or "otlp"
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    for name, value, known in (
        ("OTEL_TRACES_EXPORTER", exporter, "otlp"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol or "http/protobuf", "http/protobuf"),
    ):
        if value != known:
            if value != "none":
                log.warning("no traces are exported: %s is %r, and only %r is known here", name, value, known)
            return False
    return True


def _exporter() -> SpanExporter | None:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        log.warning("no traces are exported, though OTEL_* asks for them (%s): install edgefleet[otel]", error)
        return None
    return OTLPSpanExporter()


def _provider(exporter: SpanExporter, service: str, instance: str) -> SdkTracerProvider:
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    usual = {"service.name": service, "service.instance.id": instance}
    given = OTELResourceDetector().detect().attributes  # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go first
    provider = TracerProvider(resource=Resource.create({**usual, **given}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
