"""What traces show of a question where it is asked."""

from __future__ import annotations

from opentelemetry.trace import SpanKind

from hub import ask_span, wire
from hub.broker_url import BrokerUrl
from tests.hub.spans import kept_spans

BROKER = BrokerUrl.parse("mqtt://anna:secret@broker.lan:1884")
QUESTION = wire.Question(id="q", question="secret words", model="smol")


def test_without_tracing_there_is_none() -> None:
    """And nothing to end."""
    assert ask_span.begun(QUESTION, "kitchen", BROKER) is None
    ask_span.ended(None, wire.Failure(id="q", error=wire.Problem(code="deadline", message="")), 0)
    ask_span.broken(None)


def test_an_answer_names_its_node() -> None:
    """And neither what was asked, nor what was answered, nor a password."""
    answer = wire.Answer(id="q", text="secret answer", finish="stop", node="a", bundle="b", attempt=2)
    with kept_spans() as kept:
        ask_span.ended(ask_span.begun(QUESTION, "kitchen", BROKER), answer, 1)
        span = kept.one("edge.ask")
    assert span.kind == SpanKind.CLIENT
    assert dict(span.attributes or {}) == {
        "server.address": "broker.lan",
        "server.port": 1884,
        "network.protocol.name": "mqtt",
        "edge.device": "kitchen",
        "edge.question.id": "q",
        "gen_ai.request.model": "smol",
        "edge.repeats": 1,
        "edge.node": "a",
        "edge.bundle": "b",
        "edge.attempt": 2,
    }
    assert "secret" not in span.to_json()


def test_failures_are_errors() -> None:
    """By their code; a broker that refuses its asker too."""
    with kept_spans() as kept:
        failure = wire.Failure(id="q", error=wire.Problem(code="overloaded", message="secret"))
        ask_span.ended(ask_span.begun(QUESTION, "kitchen", BROKER), failure, 0)
        ask_span.broken(ask_span.begun(QUESTION, "kitchen", BROKER))
        codes = [(span.attributes or {})["error.type"] for span in kept.named("edge.ask")]
    assert codes == ["overloaded", "connection_refused"]
