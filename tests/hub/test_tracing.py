"""Spans are made where somebody wants them, last as long as the monotonic clock says, and cost nothing elsewhere."""

from __future__ import annotations

import http.server
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import SpanKind, StatusCode

from hub import tracing
from hub.trace_context import TraceContext
from tests.hub.spans import kept_spans, parent_of, trace_of

ROOT = Path(__file__).resolve().parents[2]
PARENT = TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "rojo=1")


def test_without_tracing_there_are_no_spans() -> None:
    """Nobody has asked for them."""
    assert not tracing.is_active()
    assert tracing.begin("a", "CLIENT", {}) is None


def test_a_span_stands_in_the_trace_that_it_is_given() -> None:
    """And names itself to whoever comes after it, with the state that came along."""
    with kept_spans() as kept:
        span = tracing.begin("edge.route", "SERVER", {"edge.hub": "h"}, parent=PARENT)
        assert span is not None
        assert span.context is not None
        assert span.context.traceparent.startswith("00-4bf92f3577b34da6a3ce929d0e0e4736-")
        assert span.context.traceparent != PARENT.traceparent
        assert span.context.tracestate == "rojo=1"
        span.event("edge.decision", {"edge.node": "a"})
        span.end({"edge.node": "a"})
        found = kept.one("edge.route")
    assert (trace_of(found), parent_of(found)) == ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
    assert found.kind == SpanKind.SERVER
    assert dict(found.attributes or {}) == {"edge.hub": "h", "edge.node": "a"}
    assert found.status.status_code == StatusCode.UNSET
    assert [event.name for event in found.events] == ["edge.decision"]


def test_what_is_not_sampled_is_passed_on_as_such() -> None:
    """The node learns that nobody wants this trace."""
    with kept_spans() as kept:
        parent = TraceContext(PARENT.traceparent[:-2] + "00")
        span = tracing.begin("edge.route", "SERVER", {}, parent=parent)
        assert span is not None
        assert span.context is not None
        assert span.context.traceparent.endswith("-00")
        span.end({})
        assert kept.all() == []


def test_failures_are_errors_by_their_code() -> None:
    """As the conventions have it: error.type, and no text."""
    with kept_spans() as kept:
        span = tracing.begin("edge.ask", "CLIENT", {})
        assert span is not None
        span.end({}, "no_node")
        found = kept.one("edge.ask")
    assert (found.attributes or {})["error.type"] == "no_node"
    assert found.status.status_code == StatusCode.ERROR
    assert found.status.description is None


def test_a_clock_that_is_set_changes_no_duration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock goes back an hour while a span of 5 ms, that began 20 ms ago, is open."""
    wall_ns, monotonic_ns = [10**18], [10**12]
    monkeypatch.setattr(time, "time_ns", lambda: wall_ns[0])
    monkeypatch.setattr(time, "monotonic_ns", lambda: monotonic_ns[0])
    with kept_spans() as kept:
        span = tracing.begin("a", "INTERNAL", {}, ago_ms=20.0)
        assert span is not None
        wall_ns[0] -= 3600 * 10**9
        monotonic_ns[0] += 5 * 10**6
        span.end({})
        found = kept.one("a")
    assert found.start_time == 10**18 - 20 * 10**6
    assert (found.end_time or 0) - found.start_time == 25 * 10**6


def test_an_applications_own_tracing_is_used() -> None:
    """An asker inside a program that traces is within the span of its caller."""
    script = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from hub import tracing
assert not tracing.is_active()
trace.set_tracer_provider(TracerProvider())
with trace.get_tracer("app").start_as_current_span("outer") as outer:
    span = tracing.begin("edge.ask", "CLIENT", {})
    print(span.context.traceparent[3:35] == f"{outer.get_span_context().trace_id:032x}")
"""
    assert run(script) == "True"


def test_nothing_is_imported_where_nobody_wants_traces() -> None:
    """Neither by asking whether there are any, nor by a process that exports none."""
    script = """
import sys
from hub import tracing
with tracing.exporting("edge-hub", "h"):
    print(tracing.begin("a", "CLIENT", {}), [name for name in sys.modules if name.startswith("opentelemetry")])
"""
    assert run(script) == "None []"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"OTEL_SDK_DISABLED": "true"}, ""),
        ({"OTEL_TRACES_EXPORTER": "none"}, ""),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER is 'zipkin', and only 'otlp' is known here"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'"),
    ],
)
def test_what_is_not_exported_is_said(
    given: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Unless it is what was asked for."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.WARNING), tracing.exporting("edge-hub", "h"):
        assert not tracing.is_active()
    assert said in caplog.text
    assert bool(said) == bool(caplog.text)


def test_a_missing_extra_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """With what to install; the process goes on."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with caplog.at_level(logging.WARNING), tracing.exporting("edge-hub", "h"):
        assert not tracing.is_active()
    assert "install edgefleet[otel]" in caplog.text


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Where OTLP may be sent to, and what came: path and body."""
    came: list[tuple[str, bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Not on the test's output."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", came
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("named", "service"), [({}, "edge-hub"), ({"OTEL_SERVICE_NAME": "ours"}, "ours")])
def test_spans_go_where_the_environment_says(
    collector: tuple[str, list[tuple[str, bytes]]],
    named: dict[str, str],
    service: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over OTLP, with the process's usual name or the one that it is given; all of them, at its end."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    url, came = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    with tracing.exporting("edge-hub", "h1"):
        span = tracing.begin("edge.route", "SERVER", {})
        assert span is not None
        span.end({})
    assert not tracing.is_active()
    ((path, body),) = came
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    said = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
    assert path == "/v1/traces"
    assert (said["service.name"], said["service.instance.id"]) == (service, "h1")
    assert [span.name for scope in resource.scope_spans for span in scope.spans] == ["edge.route"]


def test_a_collector_that_is_away_does_not_keep_a_process(
    free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be tried for ten seconds, and its time-out may be longer; the last spans are given up."""
    monkeypatch.setattr(tracing, "LEAVE_S", 0.1)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "100")
    began_s = time.monotonic()
    with tracing.exporting("edge-ask", "a"):
        span = tracing.begin("edge.ask", "CLIENT", {})
        assert span is not None
        span.end({})
    assert time.monotonic() - began_s < 60


def run(script: str) -> str:
    """What a process of its own prints, without any OTEL_* of ours."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=clean, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
