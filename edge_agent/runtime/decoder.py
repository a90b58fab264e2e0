"""Runs a decoder graph of dialect `ort` token by token, with its cache bound in place.

Past and present of each layer are one buffer, which `GroupQueryAttention` extends where it lies; ids, lengths
and logits are fixed arrays too, so a step copies and allocates nothing. Knows nothing of text, questions or
sampling: token ids in, logits out. One thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.manifest import Graph
from edge_agent.runtime.cache import KvCache
from edge_agent.runtime.contract import decoder_contract
from edge_agent.runtime.sampling import Logits
from edge_agent.runtime.session import default_threads, open_session

CHUNK_TOKENS: Final = 512  # attention over a chunk needs heads x chunk x total floats: bounded, and cancellable


class Decoder:
    """A decoder graph and one sequence in it.

    Logits that a method returns are a view into a buffer, valid until the next call.
    """

    def __init__(self, model_path: Path, graph: Graph, *, context: int, threads: int | None = None) -> None:
        """Load the graph; `context` is the most positions that one sequence may have.

        Raises BundleError if the graph is not what the manifest says, RuntimeUnavailable without a runtime.
        """
        self.threads = threads if threads is not None else default_threads()
        self._session = open_session(model_path, threads=self.threads)
        layout, self.vocabulary = decoder_contract(model_path, self._session, graph)
        self._cache = KvCache(layout, context)
        self._step_ids = np.zeros((1, 1), np.int64)
        self._seqlens = np.zeros((1,), np.int32)
        self._logits = np.zeros((1, 1, self.vocabulary), np.float32)
        self._next: Logits = self._logits.reshape(-1)  # the same memory
        self._step_binding = self._bind(self._step_ids, np.zeros((1,), np.int64), self._logits)

    @property
    def context(self) -> int:
        """The most positions that a sequence may have."""
        return self._cache.context

    @property
    def length(self) -> int:
        """Positions of the current sequence."""
        return self._cache.length

    @property
    def cache_bytes(self) -> int:
        """Bytes that the cache holds now."""
        return self._cache.bytes

    def reset(self) -> None:
        """Forget the sequence; the cache keeps its room."""
        self._cache.length = 0

    def prefill(self, ids: Sequence[int]) -> Logits:
        """Start over with `ids`; logits (vocabulary,) for the next token. Raises ContextOverflow."""
        *_, logits = self.feed(ids)
        return logits

    def feed(self, ids: Sequence[int]) -> Iterator[Logits]:
        """Like `prefill`, but in chunks of bounded work: logits (vocabulary,) after each."""
        self.reset()
        self._cache.require(len(ids), 0)
        self._make_room(len(ids))
        for chunk in chunks(ids):
            yield self.extend(chunk)

    def extend(self, ids: Sequence[int]) -> Logits:
        """Append `ids` to the sequence in one run; logits (vocabulary,). Raises ContextOverflow."""
        if len(ids) == 1:
            return self.step(ids[0])
        self._make_room(len(ids))
        keep = np.array([len(ids) - 1], np.int64)
        self._run(self._bind(self._row(ids), keep, self._logits), len(ids))
        return self._next

    def step(self, token_id: int) -> Logits:
        """Append one token; logits (vocabulary,) for the next. Raises ContextOverflow."""
        self._make_room(1)
        self._check_ids(token_id, token_id)
        self._step_ids[0, 0] = token_id
        self._run(self._step_binding, 1)
        return self._next

    def logits(self, ids: Sequence[int]) -> Logits:
        """Logits (len(ids), vocabulary) of every position, from an empty cache. Raises ContextOverflow."""
        self.reset()
        self._cache.require(len(ids), 0)
        self._make_room(len(ids))
        result: Logits = np.empty((len(ids), self.vocabulary), np.float32)
        for chunk in chunks(ids):
            part = result[np.newaxis, self.length : self.length + len(chunk)]
            self._run(self._bind(self._row(chunk), np.arange(len(chunk), dtype=np.int64), part), len(chunk))
        return result

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
        self._cache.require(len(ids), max_tokens)
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

    def close(self) -> None:
        """Release the session and the cache; the decoder cannot be used afterwards."""
        del self._step_binding, self._session, self._cache, self._logits

    def _make_room(self, tokens: int) -> None:
        if self._cache.reserve(tokens):
            self._step_binding = self._bind(self._step_ids, np.zeros((1,), np.int64), self._logits)

    def _run(self, binding: _Binding, tokens: int) -> None:
        self._seqlens[0] = self._cache.length + tokens - 1
        self._session.run_with_iobinding(binding.io)
        self._cache.length += tokens

    def _row(self, ids: Sequence[int]) -> NDArray[np.int64]:
        row = np.asarray(ids, np.int64).reshape(1, -1)
        self._check_ids(int(row.min()), int(row.max()))
        return row

    def _check_ids(self, least: int, most: int) -> None:
        if least < 0 or most >= self.vocabulary:
            wrong = least if least < 0 else most
            raise ValueError(f"token id {wrong} is outside the vocabulary of {self.vocabulary}")

    def _bind(self, ids: NDArray[np.int64], keep: NDArray[np.int64], logits: Logits) -> _Binding:
        return _Binding(self._session, ids, self._seqlens, keep, logits, self._cache)


class _Binding:
    """An IO binding, and the arrays whose memory it uses."""

    def __init__(
        self,
        session: Any,
        ids: NDArray[np.int64],
        seqlens: NDArray[np.int32],
        keep: NDArray[np.int64],
        logits: Logits,
        cache: KvCache,
    ) -> None:
        from onnxruntime import OrtValue

        self.io = session.io_binding()
        self._held: list[Any] = [ids, seqlens, keep, logits]
        for name, array in (("input_ids", ids), ("seqlens_k", seqlens), ("logits_to_keep", keep)):
            self._bind_input(name, OrtValue.ortvalue_from_numpy(array))
        self._bind_output("logits", OrtValue.ortvalue_from_numpy(logits))
        for name, buffer in cache.arrays.items():
            value = OrtValue.ortvalue_from_numpy(buffer)
            self._bind_input(f"past_key_values.{name}", value)
            self._bind_output(f"present.{name}", value)

    def _bind_input(self, name: str, value: Any) -> None:
        self._held.append(value)
        self.io.bind_ortvalue_input(name, value)

    def _bind_output(self, name: str, value: Any) -> None:
        self._held.append(value)
        self.io.bind_ortvalue_output(name, value)


def chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """`ids` in even parts of at most CHUNK_TOKENS.

    Even, because a last part of one token would run through other kernels than the rest of the prompt.

    >>> [len(part) for part in chunks(range(1025))]
    [341, 342, 342]
    """
    if len(ids) == 0:
        raise ValueError("no tokens: a sequence needs at least one")
    parts = -(-len(ids) // CHUNK_TOKENS)
    bounds = [len(ids) * part // parts for part in range(parts + 1)]
    for first, last in pairwise(bounds):
        yield ids[first:last]
