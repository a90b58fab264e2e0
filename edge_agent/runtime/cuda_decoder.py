"""Runs a decoder graph of dialect `ort` on an NVIDIA GPU with ONNX Runtime, its caches on the GPU and bound in place.

Tests run all of it on the CPU provider, which binds the same way; it has run on an H100 (docs/jetson.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.errors import RuntimeUnavailable
from edge_agent.manifest import Graph
from edge_agent.runtime.cache import Positions
from edge_agent.runtime.contract import decoder_contract
from edge_agent.runtime.row_decoder import CHUNK_TOKENS, OneRowDecoder
from edge_agent.runtime.sampling import Logits
from edge_agent.runtime.session import CUDA_PROVIDER, open_session


class CudaDecoder(OneRowDecoder):
    """One sequence, and room for `context` positions of it on the GPU from the start.

    Ids, lengths and logits are copied each run, keys and values never.
    """

    def __init__(
        self, model_path: Path, graph: Graph, *, context: int, provider: str = CUDA_PROVIDER, device: str = "cuda"
    ) -> None:
        """Load the graph; `context` is the most positions that the sequence may have, `device` where caches lie.

        Raises BundleError if the graph is not what the manifest says, RuntimeUnavailable where ONNX Runtime would run
        it elsewhere, or the GPU has no room for the caches.
        """
        self.runtime = "cuda"
        self.logits_at_most = CHUNK_TOKENS
        self._session = open_session(model_path, provider=provider)
        layout, self.vocabulary = decoder_contract(model_path, self._session, graph)
        self.cache = Positions(context, 1, layout.bytes_per_position)
        shape = (1, layout.kv_heads, context, layout.head_dim)
        names = [f"{layer}.{half}" for layer in range(layout.layers) for half in ("key", "value")]
        self._io, self._caches = self._bound(names, np.zeros(shape, layout.dtype), device)

    def close(self) -> None:
        del self._io, self._session, self._caches

    def _run(self, ids: Sequence[int], keep: Sequence[int]) -> Logits:
        from onnxruntime import OrtValue

        # Bound anew each time: what lies on the CPU is copied to the GPU when it is bound, not when the graph runs.
        given = {
            "input_ids": np.asarray(ids, np.int64).reshape(1, -1),
            "seqlens_k": np.array([self.length + len(ids) - 1], np.int32),
            "logits_to_keep": np.asarray(keep, np.int64),
        }
        for name, array in given.items():
            self._io.bind_cpu_input(name, array)
        logits: Logits = np.empty((1, len(keep), self.vocabulary), np.float32)
        self._io.bind_ortvalue_output("logits", OrtValue.ortvalue_from_numpy(logits))
        self._session.run_with_iobinding(self._io)
        kept: Logits = logits[0]
        return kept

    def _bound(self, names: Sequence[str], zeros: Any, device: str) -> tuple[Any, list[Any]]:
        """A binding in which past and present of each of `names` are one buffer of `zeros`, and the buffers."""
        from onnxruntime import OrtValue

        io = self._session.io_binding()
        caches = []
        for name in names:
            try:
                # On the CPU the value would be the array itself, so each gets its own.
                value = OrtValue.ortvalue_from_numpy(zeros.copy(), device, 0)
            except Exception as error:  # ONNX Runtime raises some ten unrelated classes
                raise RuntimeUnavailable(
                    f"no room for {zeros.nbytes * len(names) / 1e6:.0f} MB of caches on {device} "
                    f"({' '.join(str(error).split())[:200]}): serve with a smaller --context"
                ) from None
            io.bind_ortvalue_input(f"past_key_values.{name}", value)
            io.bind_ortvalue_output(f"present.{name}", value)
            caches.append(value)
        return io, caches
