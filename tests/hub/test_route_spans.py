"""What traces show of a question's way through a hub."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.trace import StatusCode

from hub import events, wire
from hub.decision import Decision, Terms
from hub.route_spans import RouteSpans
from hub.trace_context import TraceContext
from tests.hub.rows import record
from tests.hub.spans import kept_spans, parent_of

TRACE = TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
TERMS = Terms(
    node="a", bundle="b", network_ms=4, wait_ms=0, fixed_ms=1, prefill_ms=10, decode_ms=20, prompt_tokens=9,
    completion_tokens=8,
)  # fmt: skip


def sending(node: str = "a", **changes: Any) -> events.PublishWork:
    work = wire.Work(
        hub="h", device="kitchen", question=wire.Question(id="q", question="secret words"), attempt=1, budget_ms=9.0,
        bundle="b", reply_to="edge/v1/answer/kitchen",
    )  # fmt: skip
    return events.PublishWork(**{"node": node, "work": work, "ticket": 1, "waited_ms": 3.0, "trace": TRACE, **changes})


def test_without_tracing_the_askers_trace_is_passed_on() -> None:
    """To the node, as it came; what is only said again goes without."""
    spans = RouteSpans("h")
    assert spans.sent(sending()) == TRACE
    assert spans.sent(sending(trace=None)) is None
    assert spans.sent(sending(waited_ms=None)) is None
    spans.decided(Decision(device="kitchen", id="q", attempt=1, chosen=TERMS, candidates=(TERMS,), rejected=()))
    spans.ended(record(), TRACE)


def test_one_span_holds_every_attempt() -> None:
    """From receipt to outcome, however many nodes were sent it; each decision is an event with what it predicted."""
    with kept_spans() as kept:
        spans = RouteSpans("h")
        first, second = spans.sent(sending()), spans.sent(sending("c"))
        for attempt, cause in ((1, ""), (2, "hedge")):
            spans.decided(
                Decision(
                    device="kitchen",
                    id="q",
                    attempt=attempt,
                    chosen=TERMS,
                    candidates=(TERMS,),
                    rejected=(),
                    cause=cause,
                )
            )
        spans.ended(record(attempts=2, second="hedge"), TRACE)
        span = kept.one("edge.route")
    assert first == second
    assert first is not None
    assert first.traceparent[3:35] == TRACE.traceparent[3:35]
    assert parent_of(span) == "00f067aa0ba902b7"
    attributes = dict(span.attributes or {})
    assert attributes["edge.node"] == "a"
    assert attributes["edge.predicted_ms"] == 110.0
    assert [attributes[f"edge.{stage}_ms"] for stage in ("network", "queue", "prefill", "decode")] == [10, 5, 45, 40]
    assert [event.attributes["edge.cause"] for event in span.events if event.attributes] == ["", "hedge"]
    assert span.events[0].attributes is not None
    assert span.events[0].attributes["edge.predicted_ms"] == 35.0
    assert "secret" not in span.to_json()


def test_a_question_that_no_node_got_has_its_span_too() -> None:
    """With the code of its failure, and the time that it took."""
    with kept_spans() as kept:
        RouteSpans("h").ended(record(outcome="no_node", node=None, attempts=0, total_ms=2000.0), TRACE)
        span = kept.one("edge.route")
    assert parent_of(span) == "00f067aa0ba902b7"
    assert (span.attributes or {})["error.type"] == "no_node"
    assert span.status.status_code == StatusCode.ERROR
    assert (span.end_time or 0) - (span.start_time or 0) == pytest.approx(2e9, abs=1e8)


def test_what_a_node_answered_of_its_own_or_was_answered_before_makes_no_span() -> None:
    """It went through no hub, or a hub only lets its answer be said again."""
    with kept_spans() as kept:
        spans = RouteSpans("h")
        spans.ended(record(attempts=0, local=True), None)
        assert spans.sent(sending(waited_ms=None)) is None
        assert kept.all() == []
        assert len(spans._open) == 0


@pytest.mark.parametrize(
    ("outcome", "error"), [("answered", None), (events.HANDED_OVER, None), ("deadline", "deadline")]
)
def test_what_has_its_record_elsewhere_ends_here(outcome: str, error: str | None) -> None:
    """Its span is told of, and the next question under its id does not go on with it."""
    with kept_spans() as kept:
        spans = RouteSpans("h")
        first = spans.sent(sending(trace=None))
        spans.left(events.EndTrace(device="kitchen", id="q", outcome=outcome))
        span = kept.one("edge.route")
        second = spans.sent(sending(trace=None))
        spans.left(events.EndTrace(device="kitchen", id="other", outcome=outcome))
        assert len(kept.all()) == 1
    assert first is not None
    assert second is not None
    assert first.traceparent[3:35] != second.traceparent[3:35]
    assert (span.attributes or {})["edge.outcome"] == outcome
    assert (span.attributes or {}).get("error.type") == error


def test_a_question_without_a_trace_begins_one() -> None:
    """As those of plain MQTT clients do."""
    with kept_spans() as kept:
        spans = RouteSpans("h")
        context = spans.sent(sending(trace=None))
        spans.ended(record(), None)
        span = kept.one("edge.route")
    assert context is not None
    assert parent_of(span) is None
