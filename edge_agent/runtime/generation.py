"""The values between whoever serves questions and whatever answers them.

Knows nothing of ONNX Runtime: a no-op answerer in a test and the real engine look alike from here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from hub import wire


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """A finished generation. `finish` is `cancelled` when `should_stop` said so."""

    text: str
    token_ids: tuple[int, ...]
    finish: Literal["stop", "length", "cancelled"]
    tokens: wire.Tokens
    prefill_ms: float
    decode_ms: float
    compute_ms: float


class Answerer(Protocol):
    """Whatever can answer questions for a node; used by one thread at a time."""

    @property
    def served(self) -> wire.ServedBundle:
        """What the hub is told: bundle, model, task, context and cost."""
        ...

    def answer(
        self,
        question: wire.Question,
        *,
        should_stop: Callable[[], bool],
        on_text: Callable[[str], None] | None = None,
    ) -> Generation:
        """Answer one question, calling `on_text` with each new piece of text and `should_stop` between tokens.

        Raises RequestError (of `edge_agent.errors`) for a question that this answerer cannot take.
        """
        ...
