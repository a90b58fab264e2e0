"""What a decoder is to those who write answers with it: token ids in, logits out, whatever runs the graph.

Knows nothing of ONNX Runtime, TensorRT or where caches lie. One thread at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from edge_agent.runtime.cache import Positions
from edge_agent.runtime.sampling import Logits

CHUNK_TOKENS: Final = 512  # attention over a chunk needs heads x chunk x total floats: bounded, and cancellable


class RowDecoder(ABC):
    """A decoder graph and `rows` sequences in it. Methods that name no row work on the first.

    `runtime` is what runs it, as `--runtime` names it; `cache` says how long each row's sequence is. Logits that a
    method returns are float32, and may be a view into a buffer that is valid until the row's next run.
    """

    runtime: str
    vocabulary: int
    cache: Positions

    @abstractmethod
    def extend(self, ids: Sequence[int], row: int = 0) -> Logits:
        """Append `ids` to the sequence in one run; logits (vocabulary,). Raises ContextOverflow."""

    @abstractmethod
    def check(self, ids: Sequence[int], row: int = 0) -> Logits:
        """Append `ids`; logits (len(ids), vocabulary) after each of them. Raises ContextOverflow."""

    @abstractmethod
    def step_rows(self, token_ids: Sequence[int]) -> Logits:
        """Append one token to each of the first len(token_ids) rows; logits (rows, vocabulary).

        Raises ContextOverflow.
        """

    @abstractmethod
    def make_room(self, tokens: int, row: int) -> None:
        """So that `tokens` more can be appended. Raises ContextOverflow."""

    @abstractmethod
    def close(self) -> None:
        """Release the graph and the caches; the decoder cannot be used afterwards."""

    @property
    def context(self) -> int:
        """The most positions that a sequence may have."""
        return self.cache.context

    @property
    def rows(self) -> int:
        """How many sequences there may be."""
        return self.cache.rows

    @property
    def length(self) -> int:
        """Positions of the first sequence."""
        return int(self.cache.lengths[0])

    def reset(self, row: int = 0) -> None:
        """Forget the sequence; the cache keeps its room."""
        self.rewind(0, row)

    def rewind(self, length: int, row: int = 0) -> None:
        """Forget what lies behind the first `length` positions."""
        self.cache.lengths[row] = length

    def prefill(self, ids: Sequence[int]) -> Logits:
        """Start over with `ids`; logits (vocabulary,) for the next token. Raises ContextOverflow."""
        *_, logits = self.feed(ids)
        return logits

    def feed(self, ids: Sequence[int]) -> Iterator[Logits]:
        """Like `prefill`, but in chunks of bounded work: logits (vocabulary,) after each."""
        self.reset()
        self.cache.require(len(ids), 0)
        self.make_room(len(ids), 0)
        for chunk in chunks(ids):
            yield self.extend(chunk)

    def step(self, token_id: int) -> Logits:
        """Append one token; logits (vocabulary,) for the next. Raises ContextOverflow."""
        logits: Logits = self.step_rows((token_id,))[0]
        return logits

    def logits(self, ids: Sequence[int]) -> Logits:
        """Logits (len(ids), vocabulary) of every position, from an empty cache. Raises ContextOverflow."""
        self.reset()
        self.cache.require(len(ids), 0)
        self.make_room(len(ids), 0)
        return np.concatenate([self.check(chunk) for chunk in chunks(ids)])

    def generate(
        self,
        ids: Sequence[int],
        *,
        choose: Callable[[Logits], int],
        max_tokens: int,
        stop_ids: Collection[int],
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[int]:
        """Yield the tokens that follow `ids`, up to `max_tokens`; a stop token is yielded and is the last.

        `should_stop` is asked before each run and ends the sequence early. Raises ContextOverflow before the
        first token if prompt and answer do not fit.
        """
        self.cache.require(len(ids), max_tokens)
        if should_stop():
            return
        for after_chunk in self.feed(ids):
            if should_stop():
                return
            logits = after_chunk
        for left in range(max_tokens, 0, -1):
            token_id = choose(logits)
            yield token_id
            if token_id in stop_ids or left == 1 or should_stop():
                return
            logits = self.step(token_id)

    def _check_ids(self, least: int, most: int) -> None:
        if least < 0 or most >= self.vocabulary:
            wrong = least if least < 0 else most
            raise ValueError(f"token id {wrong} is outside the vocabulary of {self.vocabulary}")


class OneRowDecoder(RowDecoder):
    """A decoder with one sequence, whose caches have their whole size from the start: on GPUs.

    Nothing is copied between rows, so neither several answers at once nor the prefix cache can be had.
    """

    logits_at_most: int  # of one run

    @abstractmethod
    def _run(self, ids: Sequence[int], keep: Sequence[int]) -> Logits:
        """One run of `ids` behind the sequence, for which there is room; logits (len(keep), vocabulary)."""

    def extend(self, ids: Sequence[int], row: int = 0) -> Logits:
        last: Logits = self._append(ids, [len(ids) - 1])[0]
        return last

    def check(self, ids: Sequence[int], row: int = 0) -> Logits:
        parts = (ids[first : first + self.logits_at_most] for first in range(0, len(ids), self.logits_at_most))
        return np.concatenate([self._append(part, range(len(part))) for part in parts])

    def step_rows(self, token_ids: Sequence[int]) -> Logits:
        return self._append(token_ids, (0,))

    def make_room(self, tokens: int, row: int) -> None:
        self.cache.reserve(tokens, row)

    def _append(self, ids: Sequence[int], keep: Sequence[int]) -> Logits:
        if len(ids) > CHUNK_TOKENS:
            raise ValueError(f"{len(ids)} tokens in one run, at most {CHUNK_TOKENS} are taken: use chunks")
        self.cache.reserve(len(ids))
        self._check_ids(min(ids), max(ids))
        logits = self._run(ids, keep)
        self.cache.lengths[0] += len(ids)
        return logits


def chunks(ids: Sequence[int], most: int = CHUNK_TOKENS) -> Iterator[Sequence[int]]:
    """`ids` in even parts of at most `most` tokens.

    Even, because a last part of one token would run through other kernels than the rest of the prompt.

    >>> [len(part) for part in chunks(range(1025))]
    [341, 342, 342]
    """
    if len(ids) == 0:
        raise ValueError("no tokens: a sequence needs at least one")
    parts = -(-len(ids) // most)
    bounds = [len(ids) * part // parts for part in range(parts + 1)]
    for first, last in pairwise(bounds):
        yield ids[first:last]
