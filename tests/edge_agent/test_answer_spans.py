"""What traces show of an answer: the names of OpenTelemetry's conventions, and nothing that was said."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.semconv._incubating.attributes import error_attributes, gen_ai_attributes, server_attributes
from opentelemetry.trace import SpanKind, StatusCode

from edge_agent.answer_spans import AnswerSpans
from hub import wire
from tests.hub.spans import Kept, kept_spans, parent_of

PARENT = [("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]
SERVED = wire.ServedBundle(
    bundle="b", model="smol", task="text-generation", context=1, fixed_ms=1, prefill_ms_per_token=1,
    decode_ms_per_token=1,
)  # fmt: skip
EMBEDDER = wire.ServedBundle(
    bundle="e", model="mini", task="feature-extraction", context=1, fixed_ms=1, prefill_ms_per_token=1,
    decode_ms_per_token=0,
)  # fmt: skip


def work(**changes: Any) -> wire.Work:
    question = wire.Question(id="q", question="secret words", max_tokens=9, temperature=0.5, session="talk")
    given = {"hub": "h", "device": "kitchen", "question": question, "attempt": 1, "budget_ms": 9.0, "bundle": "b"}
    return wire.Work(**{**given, "reply_to": "edge/v1/answer/kitchen", **changes})


def answer(**changes: Any) -> wire.Answer:
    given = {"id": "q", "text": "secret answer", "finish": "length", "node": "n", "bundle": "b", "attempt": 1}
    tokens = wire.Tokens(prompt=37, cached=30, completion=8)
    return wire.Answer(**{**given, "tokens": tokens, **changes})


def answered_of(spans: AnswerSpans, given: wire.Work, reply: wire.Answer) -> None:
    spans.came(given, PARENT, 10.0)
    spans.answered(given, reply, 10.25, again=False)


@pytest.fixture
def spans() -> AnswerSpans:
    return AnswerSpans("n", {"b": SERVED, "e": EMBEDDER}.get)


def test_an_answer_by_the_conventions(spans: AnswerSpans) -> None:
    """Within the trace that came, as long as the node had the question."""
    with kept_spans() as kept:
        answered_of(spans, work(), answer())
        span = kept.one("chat smol")
    assert (span.kind, parent_of(span)) == (SpanKind.INTERNAL, "00f067aa0ba902b7")
    assert (span.end_time or 0) - (span.start_time or 0) == pytest.approx(0.25e9, abs=5e7)
    attributes = dict(span.attributes or {})
    assert {name: value for name, value in attributes.items() if name.startswith("gen_ai.")} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "edgefleet",
        "gen_ai.request.model": "smol",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.conversation.id": "talk",
        "gen_ai.response.id": "q",
        "gen_ai.response.model": "b",
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.usage.input_tokens": 37,
        "gen_ai.usage.output_tokens": 8,
        "gen_ai.usage.cache_read.input_tokens": 30,
    }
    assert "secret" not in span.to_json()


def test_every_conventional_name_is_one_of_the_conventions(spans: AnswerSpans) -> None:
    """As the installed version of them has it."""
    known = {
        value
        for module in (gen_ai_attributes, error_attributes, server_attributes)
        for value in vars(module).values()
        if isinstance(value, str)
    }
    with kept_spans() as kept:
        answered_of(spans, work(), answer())
        spans.came(work(attempt=2), PARENT, 1.0)
        spans.failed(wire.Done(hub="h", device="kitchen", id="q", attempt=2, bundle="b", outcome="internal"), 2.0)
        used = {name for span in kept.all() for name in span.attributes or {} if not name.startswith("edge.")}
    assert used <= known
    assert len(used) > 10


def test_encoders_have_their_operation(spans: AnswerSpans) -> None:
    """Vectors are `embeddings`; the model is the one that was asked for, else the one that is served."""
    with kept_spans() as kept:
        answered_of(spans, work(bundle="e"), answer(bundle="e", text=None, embedding=(1.0,)))
        assert kept.one("embeddings mini")


def test_failures_are_errors_by_their_code(spans: AnswerSpans) -> None:
    """Without the node's own words."""
    with kept_spans() as kept:
        spans.came(work(), PARENT, 1.0)
        done = wire.Done(
            hub="h", device="kitchen", id="q", attempt=1, bundle="b", outcome="too_large", message="secret"
        )
        spans.failed(done, 2.0)
        span = kept.one("chat smol")
    assert (span.attributes or {})["error.type"] == "too_large"
    assert span.status.status_code == StatusCode.ERROR
    assert "secret" not in span.to_json()


@pytest.mark.parametrize("properties", [[], [("traceparent", "00-nonsense")], PARENT * 2])
def test_without_a_trace_that_is_one_the_answer_begins_its_own(
    spans: AnswerSpans, properties: list[tuple[str, str]]
) -> None:
    """What a hostile client sends names no other's trace."""
    with kept_spans() as kept:
        spans.came(work(), properties, 1.0)
        spans.answered(work(), answer(), 2.0, again=False)
        assert parent_of(kept.one("chat smol")) is None


def test_repeats_make_no_second_span(spans: AnswerSpans) -> None:
    """Neither while it is under way, nor when its answer is said again."""
    with kept_spans() as kept:
        spans.came(work(), PARENT, 1.0)
        spans.came(work(), PARENT, 2.0)
        spans.answered(work(), answer(), 3.0, again=False)
        spans.came(work(), PARENT, 4.0)
        spans.answered(work(), answer(), 4.0, again=True)
        span = kept.one("chat smol")
    assert (span.end_time or 0) - (span.start_time or 0) == pytest.approx(2e9, abs=1e8)
    assert len(spans._open) == 0


def test_a_repeat_under_another_attempt_is_one_span(spans: AnswerSpans) -> None:
    """Since the question came first, in the trace of the attempt that is answered; and nothing is left of the other."""
    with kept_spans() as kept:
        spans.came(work(), [], 1.0)
        spans.came(work(attempt=2, hub="other"), PARENT, 2.0)
        spans.repeated(work(), work(attempt=2, hub="other"))
        assert len(spans._open) == 1
        spans.answered(work(attempt=2, hub="other"), answer(attempt=2), 3.0, again=False)
        span = kept.one("chat smol")
    assert (span.end_time or 0) - (span.start_time or 0) == pytest.approx(2e9, abs=1e8)
    assert ((span.attributes or {})["edge.hub"], parent_of(span)) == ("other", "00f067aa0ba902b7")
    assert len(spans._open) == 0


def test_a_repeat_of_the_same_attempt_loses_nothing(spans: AnswerSpans) -> None:
    """It is the same span."""
    with kept_spans() as kept:
        spans.came(work(), PARENT, 1.0)
        spans.came(work(), PARENT, 2.0)
        spans.repeated(work(), work())
        spans.answered(work(), answer(), 3.0, again=False)
        assert kept.one("chat smol")


def test_without_tracing_nothing_is_remembered(spans: AnswerSpans) -> None:
    """And nothing told."""
    answered_of(spans, work(), answer())
    assert len(spans._open) == 0


def test_what_is_remembered_is_bounded(spans: AnswerSpans, monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions that never end here are forgotten, the oldest first."""
    with kept_spans() as kept:
        spans._open._limit = 2
        for number in (1, 2, 3):
            spans.came(work(attempt=number), PARENT, 1.0)
        spans.answered(work(attempt=1), answer(), 2.0, again=False)
        assert isinstance(kept, Kept)
        assert kept.all() == []
        assert len(spans._open) == 2


def test_what_a_device_asks_its_own_node_is_a_trace_of_one_span(spans: AnswerSpans) -> None:
    """By the same names, answered or failed; no hub had a part in it."""
    question = wire.Question(id="q", question="secret words")
    with kept_spans() as kept:
        spans.own("q", question, "b", answer(), 30.0)
        spans.own("r", question, "b", "overloaded", 1.0)
        answered, failed = kept.named("chat smol")
    assert (answered.end_time or 0) - (answered.start_time or 0) == pytest.approx(30e6, abs=1e7)
    assert parent_of(answered) is parent_of(failed) is None
    assert (answered.attributes or {})["gen_ai.usage.output_tokens"] == 8
    assert "edge.hub" not in (answered.attributes or {})
    assert (failed.attributes or {})["error.type"] == "overloaded"
    assert "secret" not in answered.to_json()
