"""The values between whoever serves questions and whatever answers them.

Knows nothing of ONNX Runtime: a no-op answerer in a test and the real engine look alike from here.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Hashable
from typing import Literal, Protocol

import msgspec

from edge_agent.errors import RequestError
from hub import wire


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a question: `text`, or what an encoder gives instead. `finish` is `cancelled` when `should_stop`
    said so.
    """

    text: str | None = None
    labels: dict[str, float] | None = None
    spans: tuple[wire.Span, ...] | None = None
    embedding: tuple[float, ...] | None = None
    token_ids: tuple[int, ...]
    finish: Literal["stop", "length", "cancelled"]
    tokens: wire.Tokens
    prefill_ms: float
    decode_ms: float
    compute_ms: float


class Answerer(Protocol):
    """Whatever can answer questions for a node, several at once; used by one thread."""

    @property
    def served(self) -> wire.ServedBundle:
        """What the hub is told: bundle, model, task, context and cost."""
        ...

    @property
    def parallel(self) -> int:
        """How many questions it takes up at once; more may be begun and wait."""
        ...

    def begin(
        self,
        question: wire.Question,
        *,
        should_stop: Callable[[], bool],
        on_text: Callable[[str], None] | None = None,
    ) -> Hashable:
        """Take up a question: a ticket that `advance` returns with the outcome.

        `on_text` is called with each new piece of text, `should_stop` is asked between tokens.
        Raises RequestError (of `edge_agent.errors`) for a question that this answerer cannot take.
        """
        ...

    def advance(self) -> list[tuple[Hashable, Generation | RequestError]]:
        """Do a bounded piece of work for what was begun; the tickets that ended with it. Empty when idle."""
        ...

    def abandon(self) -> None:
        """Forget all that was begun: something went wrong in `advance`."""
        ...

    def tend(self) -> None:
        """Nothing is under way: room for a bounded piece of housekeeping."""
        ...


class OneByOne:
    """An Answerer of something that answers one question at a time, whole."""

    parallel = 1

    def __init__(self, single: SingleAnswerer) -> None:
        self._single = single
        self._begun: collections.deque[_Begun] = collections.deque()

    @property
    def served(self) -> wire.ServedBundle:
        return self._single.served

    def begin(
        self,
        question: wire.Question,
        *,
        should_stop: Callable[[], bool],
        on_text: Callable[[str], None] | None = None,
    ) -> Hashable:
        self._begun.append(_Begun(question, should_stop, on_text))
        return self._begun[-1]

    def advance(self) -> list[tuple[Hashable, Generation | RequestError]]:
        if not self._begun:
            return []
        begun = self._begun.popleft()
        try:
            return [(begun, self._single.answer(begun.question, should_stop=begun.should_stop, on_text=begun.on_text))]
        except RequestError as error:
            return [(begun, error)]

    def abandon(self) -> None:
        self._begun.clear()

    def tend(self) -> None:
        pass


class SingleAnswerer(Protocol):
    """What `OneByOne` makes an Answerer of."""

    @property
    def served(self) -> wire.ServedBundle:
        """What the hub is told."""
        ...

    def answer(
        self,
        question: wire.Question,
        *,
        should_stop: Callable[[], bool],
        on_text: Callable[[str], None] | None = None,
    ) -> Generation:
        """The whole answer. Raises RequestError."""
        ...


class _Begun:
    """A question that waits for its turn."""

    def __init__(
        self, question: wire.Question, should_stop: Callable[[], bool], on_text: Callable[[str], None] | None
    ) -> None:
        self.question = question
        self.should_stop = should_stop
        self.on_text = on_text
