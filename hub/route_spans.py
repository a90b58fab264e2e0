"""What of a question's way through a hub do traces show? One span from receipt to outcome, with its decisions.

The node's span hangs below it, whichever node that is, and every other's that was tried. Without tracing the trace of
the asker is passed on as it came. Knows nothing of MQTT.
"""

from __future__ import annotations

from typing import Final

from hub import events, tracing
from hub.decision import Decision
from hub.recent import Recent
from hub.trace_context import TraceContext

MOST_OPEN: Final = 10_000  # more than are in flight at once


class RouteSpans:
    """The spans of one hub."""

    def __init__(self, hub: str) -> None:
        self._hub = hub
        self._open: Recent[tuple[str, str], tracing.Span] = Recent(MOST_OPEN)

    def sent(self, effect: events.PublishWork) -> TraceContext | None:
        """Work is about to go out; what goes along with it. A repeat of what has ended belongs to no trace."""
        if effect.waited_ms is None:
            return None
        if not tracing.is_active():
            return effect.trace
        work = effect.work
        key = (work.device, work.question.id or "")
        span = self._open.get(key)
        if span is None:
            span = self._begin(*key, effect.trace, effect.waited_ms)
            if span is None:
                return effect.trace
            self._open.put(key, span)
        return span.context

    def decided(self, decision: Decision) -> None:
        """A node was chosen, or none was there."""
        span = self._open.get((decision.device, decision.id)) if len(self._open) else None
        terms = decision.chosen
        if span is not None and terms is not None:
            span.event(
                "edge.decision",
                {
                    "edge.node": terms.node,
                    "edge.bundle": terms.bundle,
                    "edge.attempt": decision.attempt,
                    "edge.cause": decision.cause,
                    "edge.candidates": len(decision.candidates) + decision.more_candidates,
                    "edge.predicted_ms": terms.delay_ms,
                    "edge.predicted.network_ms": terms.network_ms + terms.upload_ms,
                    "edge.predicted.queue_ms": terms.visible_wait_ms,
                    "edge.predicted.prefill_ms": terms.fixed_ms + terms.prefill_ms,
                    "edge.predicted.decode_ms": terms.decode_ms,
                },
            )

    def ended(self, record: events.Record, trace: TraceContext | None) -> None:
        """A question has its outcome."""
        span = self._open.pop((record.device, record.id)) if len(self._open) else None
        if span is None and record.attempts == 0 and not record.local:  # it went to no node
            span = self._begin(record.device, record.id, trace, record.total_ms)
        if span is not None:
            span.end(_attributes(record), None if record.outcome == "answered" else record.outcome)

    def left(self, end: events.EndTrace) -> None:
        """A question is over here, and has its record elsewhere; what comes under its id from now on is another one."""
        span = self._open.pop((end.device, end.id)) if len(self._open) else None
        if span is not None:
            fine = end.outcome in ("answered", events.HANDED_OVER)
            span.end({"edge.outcome": end.outcome}, None if fine else end.outcome)

    def _begin(self, device: str, question_id: str, trace: TraceContext | None, ago_ms: float) -> tracing.Span | None:
        attributes = {"edge.hub": self._hub, "edge.device": device, "edge.question.id": question_id}
        return tracing.begin("edge.route", "SERVER", attributes, parent=trace, ago_ms=ago_ms)


def _attributes(record: events.Record) -> dict[str, tracing.Value]:
    found: dict[str, tracing.Value | None] = {
        "edge.outcome": record.outcome,
        "edge.node": record.node,
        "edge.bundle": record.bundle,
        "edge.task": record.task,
        "edge.attempts": record.attempts,
        "edge.second": record.second or None,
        "edge.duplicates": record.duplicates,
        "edge.predicted_ms": record.predicted_ms,
        "edge.network_ms": record.network_ms,
        "edge.queue_ms": record.queue_ms,
        "edge.prefill_ms": record.prefill_ms,
        "edge.decode_ms": record.decode_ms,
        "edge.overhead_ms": record.overhead_ms,
    }
    return {name: value for name, value in found.items() if value is not None}
