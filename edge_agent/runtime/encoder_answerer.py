"""Answers questions of the fleet with an encoder bundle: labels, spans, the best answer in a text, or a vector.

Knows nothing of how the numbers come about.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, Final

import msgspec

from edge_agent.errors import RequestError
from edge_agent.runtime.encoder_engine import EncoderEngine
from edge_agent.runtime.encoding import MOST_WINDOWS
from edge_agent.runtime.generation import Generation
from hub import wire

_WARM_UP_TOKENS: Final = (8, 64)
_ROUNDS: Final = 5


class EncoderAnswerer:
    """One question at a time; satisfies `SingleAnswerer`."""

    def __init__(self, engine: EncoderEngine) -> None:
        self._engine = engine
        measured = engine.manifest.measured
        self._fixed_ms, self._ms_per_token = measured.fixed_ms, measured.prefill_ms_per_token

    @property
    def served(self) -> wire.ServedBundle:
        """What the hub is told; an encoder decodes nothing."""
        manifest = self._engine.manifest
        return wire.ServedBundle(
            bundle=manifest.bundle_id,
            version=manifest.version,
            model=manifest.model.name,
            task=manifest.task,
            context=self._engine.info.max_tokens * MOST_WINDOWS,  # longer texts are cut, or read in windows
            fixed_ms=self._fixed_ms,
            prefill_ms_per_token=self._ms_per_token,
            decode_ms_per_token=0.0,
            runtime=self._engine.encoder.runtime,
        )

    def warm_up(self) -> None:
        """Measure here what the bundle measured elsewhere."""
        longest = self._engine.info.max_tokens
        short, usual = (min(tokens, longest) for tokens in _WARM_UP_TOKENS)
        short_ms, usual_ms = self._run_ms(short), self._run_ms(usual)
        self._ms_per_token = max(usual_ms - short_ms, 0.0) / max(usual - short, 1)
        self._fixed_ms = max(short_ms - self._ms_per_token * short, 0.0)

    def tend(self) -> None:
        """Notice a machine that has become slower or faster while nothing was asked."""
        tokens = min(_WARM_UP_TOKENS[0], self._engine.info.max_tokens)
        before_ms = self._fixed_ms + self._ms_per_token * tokens
        if before_ms > 0:
            slower = (1 + self._run_ms(tokens) / before_ms) / 2
            self._fixed_ms, self._ms_per_token = self._fixed_ms * slower, self._ms_per_token * slower

    def answer(
        self,
        question: wire.Question,
        *,
        should_stop: Callable[[], bool],
        on_text: Callable[[str], None] | None = None,
    ) -> Generation:
        """The whole answer. Raises RequestError for what this bundle cannot take."""
        task = self._engine.manifest.task
        if question.task is not None and question.task != task:
            raise RequestError("unsupported", f"this bundle does {task}, not {question.task}")
        if question.messages is not None:
            raise RequestError("invalid", f"{task} takes a text, not messages: send text")
        if (question.context is not None) != (task == "question-answering"):
            need = "a context to find the answer in" if question.context is None else "no context"
            raise RequestError("invalid", f"{task} takes {need}")
        started = time.perf_counter()
        result = self._result(task, question.turns()[0], question.context, should_stop)
        took_ms = 1e3 * (time.perf_counter() - started)
        return Generation(
            token_ids=(),
            finish="cancelled" if result is None else "stop",
            tokens=wire.Tokens(prompt=self._engine.text.count(question.turns()[0], question.context)),
            prefill_ms=took_ms,
            decode_ms=0.0,
            compute_ms=took_ms,
            **(result or {}),
        )

    def close(self) -> None:
        """Release the graph."""
        self._engine.close()

    def _result(
        self, task: str, text: str, context: str | None, should_stop: Callable[[], bool]
    ) -> dict[str, Any] | None:
        """The fields of the answer; None if it is not wanted any more."""
        if should_stop():
            return None
        engine = self._engine
        if task == "text-classification":
            return {"labels": {one.label: one.score for one in engine.classify(text)}}
        if task == "token-classification":
            return {"spans": tuple(msgspec.convert(msgspec.to_builtins(one), wire.Span) for one in engine.spans(text))}
        if task == "question-answering":
            best = engine.answer(text, context or "", should_stop)
            if best is None:
                return None
            span = wire.Span(label="answer", start=best.start, end=best.end, text=best.text, score=best.score)
            return {"text": best.text, "spans": (span,)}
        return {"embedding": tuple(float(value) for value in engine.embed([text])[0])}

    def _run_ms(self, tokens: int) -> float:
        took: list[float] = []
        for _ in range(_ROUNDS + 1):
            started = time.perf_counter()
            self._engine.encoder.run([[0] * tokens])
            took.append(1e3 * (time.perf_counter() - started))
        return median(took[1:])  # the first run of a shape plans its memory
