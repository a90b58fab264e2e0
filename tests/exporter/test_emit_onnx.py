"""Dialect `onnx`: the decoder in ONNX's own operators computes what PyTorch computes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from exporter import plain
from tests.exporter.conftest import Exported, derived, worst_difference


def counts(case: Exported) -> Counter[str]:
    return Counter(node.op_type for node in ir.load(case.path).graph)


def test_every_family_equals_pytorch(standard: Exported) -> None:
    """Logits of a prefill, of a prefill over a past, and of steps lie within 1e-3 of PyTorch's, beyond any window."""
    difference, _ = worst_difference(standard)
    assert difference < 1e-3


def test_each_layer_is_the_nodes_of_its_dialect(standard_llama: Exported) -> None:
    """One attention, two cache updates, two rotations and two norms a layer, a last norm, and nothing foreign."""
    found = counts(standard_llama)
    assert found["Attention"] == 2
    assert found["TensorScatter"] == found["RotaryEmbedding"] == 4
    assert found["RMSNormalization"] == 5
    assert not found.keys() & {"Softmax", "Pow", "ReduceMean"}
    model = ir.load(standard_llama.path)
    assert model.opset_imports == {"": 24}
    assert {node.domain for node in model.graph} == {""}


def test_layers_share_masks_and_angles(standard_llama: Exported) -> None:
    """What depends on positions alone is computed once for all layers."""
    nodes = [node for node in ir.load(standard_llama.path).graph if node.op_type in ("Attention", "RotaryEmbedding")]
    assert len({node.inputs[3].name for node in nodes if node.op_type == "Attention"}) == 1  # type: ignore[union-attr]
    assert len({node.inputs[1].name for node in nodes if node.op_type == "RotaryEmbedding"}) == 1  # type: ignore[union-attr]


def test_the_caches_are_of_the_asked_length(standard_llama: Exported) -> None:
    """TensorRT updates only caches whose length is fixed in the graph, so graph and manifest say it."""
    layout = standard_llama.graph.cache
    assert layout is not None
    assert (layout.positions, layout.dtype) == (64, "float32")
    graph = ir.load(standard_llama.path).graph
    for value in (*graph.inputs[3:], *graph.outputs[1:]):
        assert value.shape is not None
        assert value.shape[2] == 64


def test_capped_scores_are_written_out() -> None:
    """TensorRT refuses an Attention that caps its scores, so only such a layer is MatMul and Softmax."""
    query = ir.Value(name="q", shape=ir.Shape(["b", 4, "s", 16]), type=ir.TensorType(ir.DataType.FLOAT))
    cache = ir.Value(name="k", shape=ir.Shape(["b", 2, 8, 16]), type=ir.TensorType(ir.DataType.FLOAT))
    mask = ir.Value(name="mask", shape=ir.Shape(["b", 1, "s", 8]), type=ir.TensorType(ir.DataType.BOOL))
    nodes = [ir.node("Attention", [query, cache, cache, mask], {"softcap": cap}) for cap in (0.0, 3.0)]
    outputs = [node.outputs[0] for node in nodes]
    for number, output in enumerate(outputs):
        output.name, output.shape, output.type = f"y{number}", query.shape, query.type
    model = ir.Model(ir.Graph([query, cache, mask], outputs, nodes=nodes, opset_imports={"": 24}), ir_version=10)
    plain.lower(model, whole=False)
    found = Counter(node.op_type for node in model.graph)
    assert found["Attention"] == found["Softmax"] == found["Tanh"] == 1
    assert [output.name for output in model.graph.outputs] == ["y0", "y1"]
    assert model.opset_imports[""] == 24


@pytest.mark.parametrize("dialect", ["onnx", "plain"])
def test_rows_of_unequal_lengths_go_together(standard_llama: Exported, tmp_path: Path, dialect: str) -> None:
    """In one batch, three tokens at once over pasts of unequal lengths give each row its own PyTorch logits."""
    import onnxruntime
    import torch

    case = standard_llama if dialect == "onnx" else derived(standard_llama, tmp_path, plain.lower, "plain")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(case.path, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()[3:]]
    draw = np.random.default_rng(3)
    rows = [draw.integers(0, 256, length + 3) for length in (3, 17)]
    caches = {name: np.zeros((2, 2, 64, 16), np.float32) for name in names}

    def run(ids: np.ndarray, lengths: list[int], past: dict[str, np.ndarray]) -> list[np.ndarray]:
        lasts = np.array(lengths, np.int32) - 1
        outputs: list[np.ndarray] = session.run(
            None, {"input_ids": ids, "seqlens_k": lasts, "logits_to_keep": np.array([2]), **past}
        )
        return outputs

    for index, row in enumerate(rows):
        one = {name: value[index : index + 1] for name, value in caches.items()}
        for name, present in zip(names, run(row[None, :-3], [len(row) - 3], one)[1:], strict=True):
            caches[name][index] = present[0]
    got = run(np.stack([row[-3:] for row in rows]), [len(row) for row in rows], caches)[0]
    for row, logits in zip(rows, got, strict=True):
        wanted = standard_llama.model(input_ids=torch.tensor(row)[None]).logits[0, -1].detach().numpy()
        assert np.abs(logits[0] - wanted).max() < 1e-3


def test_the_nearest_parser_takes_it(standard: Exported) -> None:
    """TensorRT-RTX's parser, which runs without a GPU, takes the graph of every family."""
    pytest.importorskip("tensorrt_rtx")
    from exporter.engine import parse_graph

    assert parse_graph(standard.path) == []
