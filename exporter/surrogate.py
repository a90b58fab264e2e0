"""What does a graph of dialect `onnx` or `plain` compute, where no TensorRT is at hand?

`SurrogateDecoder` runs it in ONNX Runtime's CPU provider, so that parity and accuracy can be asked of the very file
that TensorRT will be given. A surrogate: TensorRT fuses and rounds in its own ways, so the device asks again.

Does not know how fast the graph will be, and is in no hurry itself: caches are copied at each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_agent.manifest import Graph
from exporter.errors import ConversionError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_QUIET: Final = 3  # errors only: TensorScatter warns at each run that it copies


class SurrogateDecoder:
    """A decoder graph of dialect `onnx` or `plain`, and one sequence in it. Used like `edge_agent`'s `Decoder`."""

    def __init__(self, path: Path, graph: Graph, *, context: int, threads: int | None = None) -> None:
        """Load the graph; `context` is the most positions that one sequence may have.

        The cache is of that size also where the graph fixes another. Raises ConversionError for a graph without
        cache or one that the runtime does not take.
        """
        import numpy as np

        if graph.cache is None or graph.dialect == "ort":
            raise ConversionError(f"{path}: dialect {graph.dialect!r} is served as it is, it needs no surrogate")
        self._layout = graph.cache
        self.context = context
        self._session = _session(path, threads)
        shape = (1, graph.cache.kv_heads, context, graph.cache.head_dim)
        names = [n for n in graph.inputs if n.startswith("past_key_values.")]
        self._empty: dict[str, NDArray[Any]] = {name: np.zeros(shape, graph.cache.dtype) for name in names}
        self._past, self.length = self._empty, 0
        self.vocabulary = int(self._session.get_outputs()[0].shape[2])

    def reset(self) -> None:
        """Forget the sequence."""
        self._past, self.length = self._empty, 0

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """float32 (len(ids), vocabulary) of every position, from an empty cache."""
        import numpy as np

        from edge_agent.runtime.row_decoder import chunks

        self.reset()
        return np.concatenate([self._run(part, range(len(part))) for part in chunks(ids)])

    def prefill(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Start over with `ids`; logits (vocabulary,) for the next token."""
        self.reset()
        return self.extend(ids)

    def extend(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Append `ids` in one run; logits (vocabulary,) for the next token."""
        last: NDArray[np.float32] = self._run(ids, [len(ids) - 1])[0]
        return last

    def step(self, token_id: int) -> NDArray[np.float32]:
        """Append one token; logits (vocabulary,) for the next."""
        return self.extend([token_id])

    def close(self) -> None:
        """Release the session; the decoder cannot be used afterwards."""
        del self._session, self._past, self._empty

    def _run(self, ids: Sequence[int], keep: Sequence[int]) -> NDArray[np.float32]:
        import numpy as np

        total = self.length + len(ids)
        if total > self.context:
            raise ConversionError(f"{total} tokens do not fit into a context of {self.context}")
        logits, *present = self._session.run(
            ["logits", *(name.replace("past_key_values", "present") for name in self._past)],
            {
                "input_ids": np.asarray(ids, np.int64)[None],
                "seqlens_k": np.array([total - 1], np.int32),
                "logits_to_keep": np.asarray(keep, np.int64),
                **self._past,
            },
        )
        self._past, self.length = dict(zip(self._past, present, strict=True)), total
        kept: NDArray[np.float32] = logits[0]
        return kept


def _session(path: Path, threads: int | None) -> Any:
    """A session over `path` whose caches may have any number of positions."""
    import onnx
    from onnxruntime import InferenceSession, SessionOptions

    from edge_agent.runtime.session import default_threads

    model = onnx.load(path, load_external_data=False)
    for value in (*model.graph.input, *model.graph.output):
        if value.name.startswith(("past_key_values.", "present.")):
            value.type.tensor_type.shape.dim[2].dim_param = "positions"
    del model.graph.value_info[:]  # shapes in between, which may hold the number that was just taken out
    options = SessionOptions()
    options.log_severity_level = _QUIET
    options.intra_op_num_threads = threads if threads is not None else default_threads()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    try:
        return InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has no root of its own errors
        raise ConversionError(
            f"{path}: ONNX Runtime refuses the graph: {' '.join(str(error).split())[:300]}"
        ) from error
