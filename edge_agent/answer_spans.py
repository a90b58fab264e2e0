"""What of an answer do traces show? A span by OpenTelemetry's conventions for generative models, and never the text.

From the receipt of a question at the node to its end, within the trace that came with it. Spans are made when they end,
from what is remembered of each question meanwhile. Knows nothing of how an answer is made; `now` is monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from hub import tracing, wire
from hub.recent import Recent
from hub.trace_context import TraceContext, trace_in

MOST_OPEN: Final = 10_000
_OPERATIONS: Final = {"text-generation": "chat", "feature-extraction": "embeddings"}  # other tasks have no name there


class _Came(msgspec.Struct, frozen=True):
    work: wire.Work
    trace: TraceContext | None
    at_s: float


class AnswerSpans:
    """The spans of node `name`; `served` finds what it serves by bundle id."""

    def __init__(self, name: str, served: Callable[[str], wire.ServedBundle | None]) -> None:
        self._name = name
        self._served = served
        self._open: Recent[tuple[str, str, int], _Came] = Recent(MOST_OPEN)

    def came(self, work: wire.Work, properties: Iterable[tuple[str, str]], now: float) -> None:
        """A hub wants a question answered; it may say so twice."""
        if tracing.is_active():
            key = _key(work)
            if key not in self._open:
                self._open.put(key, _Came(work, trace_in(properties), now))

    def repeated(self, before: wire.Work, work: wire.Work) -> None:
        """What came as `before` ends as `work`: one span, since the first came, in the trace of the last."""
        if _key(before) == _key(work) or not len(self._open):
            return
        first, last = self._open.pop(_key(before)), self._open.get(_key(work))
        if first is not None and last is not None:
            self._open.put(_key(work), _Came(last.work, last.trace, first.at_s))

    def answered(self, work: wire.Work, answer: wire.Answer, now: float, *, again: bool) -> None:
        """The answer goes out; `again` is one that was made before, in whose trace it is already."""
        came = self._open.pop(_key(work)) if len(self._open) else None
        if came is not None and not again:
            self._tell(came, now, _of_answer(answer), None)

    def failed(self, done: wire.Done, now: float) -> None:
        """The node gives a question up, for the reason that it reports."""
        came = self._open.pop((done.device, done.id, done.attempt)) if len(self._open) else None
        if came is not None:
            self._tell(came, now, {}, done.outcome)

    def own(
        self, question_id: str, question: wire.Question, bundle: str, outcome: wire.Answer | str, total_ms: float
    ) -> None:
        """A question of this device was answered here without any hub, or failed with this code."""
        if tracing.is_active():
            asked = {"edge.question.id": question_id}
            if isinstance(outcome, wire.Answer):
                self._tell_of(question, bundle, asked, None, total_ms, _of_answer(outcome), None)
            else:
                self._tell_of(question, bundle, asked, None, total_ms, {}, outcome)

    def _tell(self, came: _Came, now: float, attributes: Mapping[str, tracing.Value], error: str | None) -> None:
        work = came.work
        asked: dict[str, tracing.Value] = {
            "edge.hub": work.hub,
            "edge.device": work.device,
            "edge.question.id": work.question.id or "",
            "edge.attempt": work.attempt,
        }
        ago_ms = (now - came.at_s) * 1000
        self._tell_of(work.question, work.bundle, asked, came.trace, ago_ms, attributes, error)

    def _tell_of(
        self,
        question: wire.Question,
        bundle: str,
        asked: Mapping[str, tracing.Value],
        trace: TraceContext | None,
        ago_ms: float,
        attributes: Mapping[str, tracing.Value],
        error: str | None,
    ) -> None:
        served = self._served(bundle)
        operation = "chat" if served is None else _OPERATIONS.get(served.task, served.task)
        model = question.model or (bundle if served is None else served.model)
        begun = {**_of_request(question, operation, model), **asked, "edge.node": self._name}
        span = tracing.begin(f"{operation} {model}", "INTERNAL", begun, parent=trace, ago_ms=ago_ms)
        if span is not None:
            span.end(attributes, error)


def _key(work: wire.Work) -> tuple[str, str, int]:
    return work.device, work.question.id or "", work.attempt


def _of_request(question: wire.Question, operation: str, model: str) -> dict[str, tracing.Value]:
    """https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans"""
    found: dict[str, tracing.Value | None] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "edgefleet",
        "gen_ai.request.model": model,
        "gen_ai.request.max_tokens": question.max_tokens,
        "gen_ai.request.temperature": question.temperature,
        "gen_ai.request.stream": question.stream or None,
        "gen_ai.conversation.id": question.session,
    }
    return {name: value for name, value in found.items() if value is not None}


def _of_answer(answer: wire.Answer) -> dict[str, tracing.Value]:
    tokens, timing = answer.tokens, answer.timing_ms
    return {
        "gen_ai.response.id": answer.id,
        "gen_ai.response.model": answer.bundle,
        "gen_ai.response.finish_reasons": (answer.finish,),
        "gen_ai.usage.input_tokens": tokens.prompt,
        "gen_ai.usage.output_tokens": tokens.completion,
        "gen_ai.usage.cache_read.input_tokens": tokens.cached,
        "edge.queue_ms": timing.queue,
        "edge.prefill_ms": timing.prefill,
        "edge.decode_ms": timing.decode,
    }
