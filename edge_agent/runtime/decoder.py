"""Runs a decoder graph of dialect `ort` with its caches bound in place: one sequence in each row of them.

Past and present of each layer are one buffer, which `GroupQueryAttention` extends where it lies; ids, lengths
and logits are fixed arrays too, so a step copies and allocates nothing. Several rows advance together by one token
each; a run of more tokens belongs to one row, because that operator takes no others on a CPU. Knows nothing of text,
questions or sampling: token ids in, logits out. One thread at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_agent.manifest import Graph
from edge_agent.runtime.cache import KvCache
from edge_agent.runtime.contract import decoder_contract
from edge_agent.runtime.row_decoder import RowDecoder, chunks
from edge_agent.runtime.sampling import Logits
from edge_agent.runtime.session import default_threads, open_session


class Decoder(RowDecoder):
    """A decoder graph and `rows` sequences in it. Methods that name no row work on the first.

    Logits that a method returns are a view into a buffer, valid until the row's next run.
    """

    def __init__(
        self, model_path: Path, graph: Graph, *, context: int, threads: int | None = None, rows: int = 1
    ) -> None:
        """Load the graph; `context` is the most positions that one sequence may have.

        Raises BundleError if the graph is not what the manifest says, RuntimeUnavailable without a runtime.
        """
        self.runtime = "cpu"
        self.threads = threads if threads is not None else default_threads()
        self._session = open_session(model_path, threads=self.threads)
        layout, self.vocabulary = decoder_contract(model_path, self._session, graph)
        self.cache: KvCache = KvCache(layout, context, rows)
        self._seqlens = np.zeros((1,), np.int32)
        self._ids = np.zeros((rows, 1), np.int64)
        self._keep_last = np.zeros((1,), np.int64)
        self._logits = np.zeros((rows, 1, self.vocabulary), np.float32)
        self._steps: dict[int, _Binding] = {}  # by the number of rows that advance together

    @property
    def cache_bytes(self) -> int:
        """Bytes that the caches hold now."""
        return self.cache.bytes

    def extend(self, ids: Sequence[int], row: int = 0) -> Logits:
        """Append `ids` to the sequence in one run; logits (vocabulary,). Raises ContextOverflow."""
        if len(ids) == 1 and row == 0:
            return self.step(ids[0])
        logits = self._logits[row : row + 1]
        self._run_row(ids, row, np.array([len(ids) - 1], np.int64), logits)
        last: Logits = logits.reshape(-1)
        return last

    def check(self, ids: Sequence[int], row: int = 0) -> Logits:
        """Append `ids` in one run; logits (len(ids), vocabulary) after each of them. Raises ContextOverflow."""
        logits: Logits = np.empty((len(ids), self.vocabulary), np.float32)
        self._run_row(ids, row, np.arange(len(ids), dtype=np.int64), logits[np.newaxis])
        return logits

    def step_rows(self, token_ids: Sequence[int]) -> Logits:
        """Append one token to each of the first len(token_ids) rows; logits (rows, vocabulary).

        Raises ContextOverflow.
        """
        count = len(token_ids)
        for row in range(count):
            self.make_room(1, row)
        self._check_ids(min(token_ids), max(token_ids))
        binding = self._steps.get(count)
        if binding is None:
            binding = self._bind(
                self._ids[:count], self.cache.lengths[:count], self._keep_last, self._logits[:count], 0, count
            )
            self._steps[count] = binding
        self._ids[:count, 0] = token_ids
        self._session.run_with_iobinding(binding.io)  # the lengths before the step are what the graph is to be given
        self.cache.lengths[:count] += 1
        logits: Logits = self._logits[:count, 0]
        return logits

    def logits(self, ids: Sequence[int]) -> Logits:
        """Logits (len(ids), vocabulary) of every position, from an empty cache. Raises ContextOverflow."""
        self.reset()
        self.cache.require(len(ids), 0)
        self.make_room(len(ids), 0)
        result: Logits = np.empty((len(ids), self.vocabulary), np.float32)
        for chunk in chunks(ids):
            part = result[np.newaxis, self.length : self.length + len(chunk)]
            self._run_row(chunk, 0, np.arange(len(chunk), dtype=np.int64), part)
        return result

    def close(self) -> None:
        """Release the session and the cache; the decoder cannot be used afterwards."""
        del self._steps, self._session, self.cache, self._logits

    def make_room(self, tokens: int, row: int) -> None:
        if self.cache.reserve(tokens, row):
            self._steps.clear()

    def _run_row(self, ids: Sequence[int], row: int, keep: NDArray[np.int64], logits: Logits) -> None:
        self.make_room(len(ids), row)
        ids_row = np.asarray(ids, np.int64).reshape(1, -1)
        self._check_ids(int(ids_row.min()), int(ids_row.max()))
        self._seqlens[0] = self.cache.lengths[row] + len(ids) - 1
        self._session.run_with_iobinding(self._bind(ids_row, self._seqlens, keep, logits, row, row + 1).io)
        self.cache.lengths[row] += len(ids)

    def _bind(
        self,
        ids: NDArray[np.int64],
        seqlens: NDArray[np.int32],
        keep: NDArray[np.int64],
        logits: Logits,
        first: int,
        last: int,
    ) -> _Binding:
        given: dict[str, NDArray[Any]] = {"input_ids": ids, "seqlens_k": seqlens, "logits_to_keep": keep}
        return _Binding(self._session, given, logits, self.cache.arrays(first, last))


class _Binding:
    """An IO binding, and the arrays whose memory it uses."""

    def __init__(
        self,
        session: Any,
        given: dict[str, NDArray[Any]],
        logits: Logits,
        caches: dict[str, NDArray[np.generic]],
    ) -> None:
        from onnxruntime import OrtValue

        self.io = session.io_binding()
        self._held: list[Any] = [*given.values(), logits, *caches.values()]
        for name, array in given.items():
            self._bind_input(name, OrtValue.ortvalue_from_numpy(array))
        self._bind_output("logits", OrtValue.ortvalue_from_numpy(logits))
        for name, array in caches.items():
            value = OrtValue.ortvalue_from_numpy(array)
            self._bind_input(f"past_key_values.{name}", value)
            self._bind_output(f"present.{name}", value)

    def _bind_input(self, name: str, value: Any) -> None:
        self._held.append(value)
        self.io.bind_ortvalue_input(name, value)

    def _bind_output(self, name: str, value: Any) -> None:
        self._held.append(value)
        self.io.bind_ortvalue_output(name, value)
