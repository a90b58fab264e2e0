"""Dialect `plain`: what older TensorRT parses computes the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx_ir as ir
import pytest

from exporter import plain
from exporter.errors import ConversionError
from exporter.operators import unsupported
from tests.exporter.conftest import Exported, derived, exported, random_model, worst_difference

NEWER = {"Attention", "TensorScatter", "RotaryEmbedding", "RMSNormalization"}


def test_every_family_equals_pytorch_without_newer_operators(standard: Exported, tmp_path: Path) -> None:
    """Lowered, each family is of opset 19 and of operators that TensorRT 10.3 takes, and as near to PyTorch."""
    case = derived(standard, tmp_path, plain.lower, "plain")
    model = ir.load(case.path)
    assert model.opset_imports == {"": 19}
    assert not {node.op_type for node in model.graph} & NEWER
    assert unsupported(case.path, "10.3") == []
    difference, _ = worst_difference(case)
    assert difference < 1e-3


def test_keys_are_not_repeated_for_the_heads_that_share_them(standard_llama: Exported, tmp_path: Path) -> None:
    """Between caches and products stands one transposition of the keys, no Expand and no Tile."""
    graph = ir.load(derived(standard_llama, tmp_path, plain.lower, "plain").path).graph
    found = Counter(node.op_type for node in graph)
    assert not found.keys() & {"Expand", "Tile"}
    assert found["Softmax"] == 2


def test_convert_writes_it_in_half_floats(tmp_path: Path) -> None:
    """`convert` lowers after it has halved: the norms' means are still float32, the caches fp16 and of free length."""
    model = random_model("Llama", num_hidden_layers=1)
    case = exported(model, tmp_path, dialect="plain", half=True)
    assert case.graph.path == "model/decoder-plain.onnx"
    assert case.graph.cache is not None
    assert (case.graph.cache.dtype, case.graph.cache.positions) == ("float16", None)
    for node in ir.load(case.path).graph:
        assert node.op_type not in NEWER
        if node.op_type in ("ReduceMean", "Softmax"):
            assert node.outputs[0].dtype == ir.DataType.FLOAT
    difference, largest = worst_difference(case)
    assert difference < 0.02 * largest


def test_a_norm_over_more_than_the_last_axis_is_refused() -> None:
    """What the plain form would compute otherwise is refused by name."""
    x = ir.Value(name="x", shape=ir.Shape([2, 3, 4]), type=ir.TensorType(ir.DataType.FLOAT))
    scale = ir.Value(name="scale", shape=ir.Shape([3, 4]), type=ir.TensorType(ir.DataType.FLOAT))
    norm = ir.node("RMSNormalization", [x, scale], {"axis": 1}, name="wide_norm")
    model = ir.Model(ir.Graph([x, scale], norm.outputs, nodes=[norm], opset_imports={"": 24}), ir_version=10)
    with pytest.raises(ConversionError, match="wide_norm normalizes over axis 1"):
        plain.lower(model)
