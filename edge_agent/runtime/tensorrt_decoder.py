"""Runs a decoder's engine on TensorRT or TensorRT-RTX: token ids in, logits out, the caches on the GPU.

A graph of dialect `onnx` writes its caches where they lie, one of dialect `plain` from one buffer into another, which
then change places (`edge_agent.manifest.Graph`). Never run on hardware: tests run it on a stand-in for GPU and engine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import RuntimeUnavailable
from edge_agent.manifest import Graph
from edge_agent.runtime.cache import Positions
from edge_agent.runtime.gpu import Gpu
from edge_agent.runtime.row_decoder import CHUNK_TOKENS, OneRowDecoder
from edge_agent.runtime.sampling import Logits
from edge_agent.runtime.tensorrt import OpenEngine

_ID_BYTES: Final = 8
_LENGTH_BYTES: Final = 4
_LOGIT_BYTES: Final = 4


class TensorRtDecoder(OneRowDecoder):
    """One sequence, and room for all positions that the engine takes, on the GPU from the start."""

    def __init__(self, engine: OpenEngine, graph: Graph, gpu: Gpu, *, runtime: str, context: int | None) -> None:
        """`context` is the most positions that the sequence may have (default: all that the engine was built for);
        memory is taken for as many as the graph fixes.

        Raises RuntimeUnavailable if the engine is not the graph's, for a context that it was not built for, or where
        the GPU has no room.
        """
        self.runtime = runtime
        self._engine, self._gpu = engine, gpu
        layout = graph.cache
        if layout is None or sorted(engine.names) != sorted((*graph.inputs, *graph.outputs)):
            raise RuntimeUnavailable(f"the engine's tensors are not those of {graph.path}: export the model again")
        longest = engine.most("past_key_values.0.key", 2)
        context = longest if context is None else context
        if context > longest:
            raise RuntimeUnavailable(
                f"the engine has {longest} positions, not {context}: serve with --context {longest}"
            )
        self._positions = layout.positions or context
        self.vocabulary = engine.shape("logits")[2]
        if self.vocabulary < 1:
            raise RuntimeUnavailable(f"the engine of {graph.path} does not fix the vocabulary: export the model again")
        self.cache = Positions(context, 1, layout.bytes_per_position)
        self.logits_at_most = min(engine.most("logits_to_keep", 0), CHUNK_TOKENS)
        self._cache_shape = (1, layout.kv_heads, self._positions, layout.head_dim)
        names = [f"{layer}.{half}" for layer in range(layout.layers) for half in ("key", "value")]
        gpu.use()
        self._held: list[int] = []
        cache_bytes = math.prod(self._cache_shape) * np.dtype(layout.dtype).itemsize
        self._past = {name: self._room(cache_bytes) for name in names}
        in_place = graph.dialect == "onnx"
        self._present = self._past if in_place else {name: self._room(cache_bytes) for name in names}
        self._ids = self._room(_ID_BYTES * CHUNK_TOKENS)
        self._seqlens = self._room(_LENGTH_BYTES)
        self._keep = self._room(_ID_BYTES * CHUNK_TOKENS)
        self._logits = self._room(_LOGIT_BYTES * self.logits_at_most * self.vocabulary)

    def close(self) -> None:
        self._gpu.use()
        self._free()
        self._engine.close()

    def _run(self, ids: Sequence[int], keep: Sequence[int]) -> Logits:
        self._gpu.use()
        given: dict[str, tuple[int, NDArray[Any]]] = {
            "input_ids": (self._ids, np.asarray(ids, np.int64).reshape(1, -1)),
            "seqlens_k": (self._seqlens, np.array([self.length + len(ids) - 1], np.int32)),
            "logits_to_keep": (self._keep, np.asarray(keep, np.int64)),
        }
        for address, values in given.values():
            self._gpu.upload(address, values)
        shapes = {name: values.shape for name, (_, values) in given.items()}
        shapes |= {f"past_key_values.{name}": self._cache_shape for name in self._past}
        addresses = {name: address for name, (address, _) in given.items()} | {"logits": self._logits}
        addresses |= {f"past_key_values.{name}": address for name, address in self._past.items()}
        addresses |= {f"present.{name}": address for name, address in self._present.items()}
        self._engine.run(shapes, addresses)
        logits: Logits = np.empty((len(keep), self.vocabulary), np.float32)
        self._gpu.download(self._logits, logits)
        self._past, self._present = self._present, self._past
        return logits

    def _room(self, size: int) -> int:
        try:
            self._held.append(self._gpu.allocate(size))
        except RuntimeUnavailable:
            self._free()
            raise
        return self._held[-1]

    def _free(self) -> None:
        for address in self._held:
            self._gpu.free(address)
        self._held.clear()


def open_tensorrt(path: Path, graph: Graph, gpu: Gpu, *, runtime: str, context: int | None) -> TensorRtDecoder:
    """The decoder over the engine in `path`. Raises what `OpenEngine` and `TensorRtDecoder` raise."""
    engine = OpenEngine(runtime, path, gpu)
    try:
        return TensorRtDecoder(engine, graph, gpu, runtime=runtime, context=context)
    except Exception:
        engine.close()
        raise
