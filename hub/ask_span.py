"""What of a question do traces show where it is asked? One span until its outcome, however often it is repeated.

Knows nothing of how it travels, and tells nothing of what is asked.
"""

from __future__ import annotations

from hub import tracing, wire
from hub.broker_url import BrokerUrl


def begun(question: wire.Question, device: str, broker: BrokerUrl) -> tracing.Span | None:
    """A question is asked, within whatever span its caller is in; None without tracing."""
    if not tracing.is_active():
        return None
    attributes: dict[str, tracing.Value] = {
        "server.address": broker.host,
        "server.port": broker.port,
        "network.protocol.name": "mqtt",
        "edge.device": device,
        "edge.question.id": question.id or "",
    }
    if question.model is not None:
        attributes["gen_ai.request.model"] = question.model
    return tracing.begin("edge.ask", "CLIENT", attributes)


def ended(span: tracing.Span | None, reply: wire.Answer | wire.Failure, repeats: int) -> None:
    """It has its outcome, and was sent again so often."""
    if span is None:
        return
    attributes: dict[str, tracing.Value] = {"edge.repeats": repeats}
    if isinstance(reply, wire.Failure):
        span.end(attributes, reply.error.code)
    else:
        span.end({**attributes, "edge.node": reply.node, "edge.bundle": reply.bundle, "edge.attempt": reply.attempt})


def broken(span: tracing.Span | None) -> None:
    """It has none, for the broker refuses its asker."""
    if span is not None:
        span.end({}, "connection_refused")
