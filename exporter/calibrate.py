"""What does calibration text say of a graph: how its weights' inputs move together, and what each weight's error costs?

Both are measured by running the fp32 graph in ONNX Runtime, decoder or encoder alike: `second_moments` with the inputs
of the multiplications as further outputs, `sensitivity` with some weights replaced at a time.

Does not know how weights are quantized, nor who will be judged on which text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_agent.manifest import Graph
from exporter.blocks import Floats

if TYPE_CHECKING:
    import numpy as np

CHUNK_TOKENS: Final = 256  # of one run: bounds the activations that are held


def second_moments(
    path: Path,
    graph: Graph,
    values: Sequence[str],
    rows: Sequence[Sequence[int]],
    on_progress: Callable[[float], None] = lambda _: None,
) -> dict[str, Floats]:
    """E[x x^T] float32 (columns, columns) of each of `values`, over all tokens of `rows`.

    `path` is the fp32 graph, `values` names of (batch, sequence, columns) tensors in it.
    """
    import numpy as np

    names = list(dict.fromkeys(values))
    sums: dict[str, Any] = {}
    tokens = 0
    with _variant(path, outputs=names) as session:
        chunks = list(_chunks(rows))
        for number, ids in enumerate(chunks):
            for name, value in zip(names, session.run(names, feeds(graph, session, ids)), strict=True):
                flat = value.reshape(-1, value.shape[-1])
                sums[name] = sums.get(name, 0) + flat.T @ flat
            tokens += len(ids)
            on_progress((number + 1) / len(chunks))
    return {name: (total / np.float32(tokens)).astype(np.float32) for name, total in sums.items()}


def sensitivity(
    path: Path,
    graph: Graph,
    groups: Mapping[str, Mapping[str, Callable[[], Floats]]],
    rows: Sequence[Sequence[int]],
    on_progress: Callable[[float], None] = lambda _: None,
) -> dict[str, float]:
    """How far outputs move when one group of weights at a time is replaced: mean KL over the tokens of `rows`.

    `groups` maps a group's name to its weights: the initializer's name and a function that gives the replacement, in
    the initializer's own shape. For outputs that are no distribution it is the relative mean squared difference.
    """
    import numpy as np

    moved = dict.fromkeys(groups, 0.0)
    weights = [name for group in groups.values() for name in group]
    chunks = list(_chunks(rows))
    with _variant(path, overridable=weights) as session:
        outputs = [name for name in graph.outputs if not name.startswith("present.")]
        plain = [session.run(outputs, feeds(graph, session, ids)) for ids in chunks]
        for number, (name, group) in enumerate(groups.items()):
            replaced = {weight: give() for weight, give in group.items()}
            for ids, wanted in zip(chunks, plain, strict=True):
                got = session.run(outputs, {**feeds(graph, session, ids), **replaced})
                shift = sum(_shift(one, other, logits=out.endswith("logits"))
                            for one, other, out in zip(wanted, got, outputs, strict=True))  # fmt: skip
                moved[name] += float(shift) / len(chunks)
            on_progress((number + 1) / len(groups))
    assert all(np.isfinite(value) for value in moved.values())
    return moved


def feeds(graph: Graph, session: Any, ids: Sequence[int]) -> dict[str, np.ndarray]:
    """Everything that one run over `ids` from an empty cache takes: batch 1, all positions kept."""
    import numpy as np

    row = np.asarray([ids], np.int64)
    known: dict[str, np.ndarray] = {
        "input_ids": row,
        "attention_mask": np.ones_like(row),
        "token_type_ids": np.zeros_like(row),
        "seqlens_k": np.array([len(ids) - 1], np.int32),
        "logits_to_keep": np.arange(len(ids), dtype=np.int64),
    }
    given = {name: known[name] for name in graph.inputs if name in known}
    for value in session.get_inputs():
        if value.name.startswith("past_key_values."):
            given[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
    return given


@contextmanager
def _variant(path: Path, *, outputs: Sequence[str] = (), overridable: Sequence[str] = ()) -> Iterator[Any]:
    """A session over the graph with further outputs, or with initializers that a run may override.

    The changed graph lies beside the old one for as long, since both use one data file.
    """
    import onnx

    from edge_agent.runtime.session import open_session

    model = onnx.load(str(path), load_external_data=False)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    kinds = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in set(overridable)}
    model.graph.input.extend(
        onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)) for name, tensor in kinds.items()
    )
    variant = path.with_name(f".calibrate-{path.name}")
    try:
        onnx.save(model, str(variant))
        yield open_session(variant)
    finally:
        variant.unlink(missing_ok=True)


def _chunks(rows: Sequence[Sequence[int]]) -> Iterator[Sequence[int]]:
    for row in rows:
        for start in range(0, len(row), CHUNK_TOKENS):
            yield row[start : start + CHUNK_TOKENS]


def _shift(wanted: np.ndarray, got: np.ndarray, *, logits: bool) -> float:
    """Mean KL of softmax(got) to softmax(wanted) along the last axis, or the relative mean squared difference."""
    import torch

    if not logits:
        return float(((wanted - got) ** 2).mean() / max(float((wanted**2).mean()), 1e-30))
    one, other = (torch.from_numpy(part).log_softmax(-1) for part in (wanted, got))
    return float((one.exp() * (one - other)).sum(-1).mean())
