"""Runs an encoder graph: rows of token ids in, the task's numbers out.

Rows of unlike length become one padded batch. Knows nothing of text, labels or tasks. One thread at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from edge_agent.manifest import Graph
from edge_agent.runtime.contract import encoder_contract
from edge_agent.runtime.session import CPU_PROVIDER, CUDA_PROVIDER, default_threads, open_session

PADDING_ID: Final = 0  # any id will do: behind every token and masked, it changes nothing (encoder_parity.py asks)

Numbers = NDArray[np.float32]


class Encoder:
    """An encoder graph, open."""

    def __init__(
        self, model_path: Path, graph: Graph, *, threads: int | None = None, runtime: Literal["cpu", "cuda"] = "cpu"
    ) -> None:
        """Load the graph; `threads` work on one operator (default: one for each physical core).

        Raises BundleError if the graph is not what the manifest says, RuntimeUnavailable without a runtime.
        """
        self.threads = threads if threads is not None else default_threads()
        self.runtime = runtime
        provider = CUDA_PROVIDER if runtime == "cuda" else CPU_PROVIDER
        self._session = open_session(model_path, threads=self.threads, provider=provider)
        self.is_per_token = encoder_contract(model_path, self._session, graph)
        self.outputs = graph.outputs
        self._knows_types = "token_type_ids" in graph.inputs

    def run(self, ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None) -> dict[str, Numbers]:
        """The graph's outputs by name, float32, rows first, for rows of at least one token each.

        `types` tell a row's first text (0) from its second (1), default all 0; a graph that does not know them
        goes without. Outputs of a token (where `is_per_token`) are as many as the longest row has; those behind a
        shorter row's own mean nothing.
        """
        if not ids or not all(ids):
            raise ValueError("no tokens: each row needs at least one")
        longest = max(map(len, ids))
        feed = {"input_ids": _padded(ids, longest, PADDING_ID), "attention_mask": _padded_ones(ids, longest)}
        if self._knows_types:
            feed["token_type_ids"] = np.zeros_like(feed["input_ids"]) if types is None else _padded(types, longest, 0)
        values: list[Numbers] = self._session.run(self.outputs, feed)
        return dict(zip(self.outputs, values, strict=True))

    def close(self) -> None:
        """Release the session; the encoder cannot be used afterwards."""
        del self._session


def _padded(rows: Sequence[Sequence[int]], longest: int, padding: int) -> NDArray[np.int64]:
    batch = np.full((len(rows), longest), padding, np.int64)
    for number, row in enumerate(rows):
        batch[number, : len(row)] = row
    return batch


def _padded_ones(rows: Sequence[Sequence[int]], longest: int) -> NDArray[np.int64]:
    lengths = np.array([len(row) for row in rows])
    return (np.arange(longest) < lengths[:, np.newaxis]).astype(np.int64)
