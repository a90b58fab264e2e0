"""Half floats: how far a graph may move, what stays in float32, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from exporter.errors import ConversionError
from exporter.half import halve
from exporter.parity import HALF_TOLERANCE
from tests.exporter.conftest import Exported, derived, worst_difference

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def test_every_family_moves_by_rounding_alone(standard: Exported, tmp_path: Path) -> None:
    """In fp16 the logits differ from PyTorch's fp32 by at most 2% of the largest, and they do differ."""
    case = derived(standard, tmp_path, halve)
    assert case.graph.cache is not None
    assert case.graph.cache.dtype == "float16"
    difference, largest = worst_difference(case)
    assert 1e-5 * largest < difference < HALF_TOLERANCE * largest


def test_the_serving_dialect_runs_in_half_floats(tiny_llama: Exported, tmp_path: Path) -> None:
    """The agent's decoder opens an fp16 graph of dialect `ort` with fp16 caches, and its logits are float32."""
    case = derived(tiny_llama, tmp_path, halve, "ort")
    difference, largest = worst_difference(case)
    assert 1e-5 * largest < difference < HALF_TOLERANCE * largest
    assert (
        case.path.with_suffix(".onnx.data").stat().st_size
        < 0.6 * tiny_llama.path.with_suffix(".onnx.data").stat().st_size
    )


def test_a_tied_head_stays_tied(standard_llama: Exported, tmp_path: Path) -> None:
    """Embedding and head are one initializer still, now of half the bytes."""
    graph = ir.load(derived(standard_llama, tmp_path, halve).path).graph
    shapes = [tuple(value.shape or ()) for value in graph.initializers.values() if value.dtype == HALF]
    assert shapes.count((300, 64)) == 1
    assert (64, 300) not in shapes


def small_model(nodes: list[ir.Node], inputs: list[ir.Value], weights: list[ir.Value]) -> ir.Model:
    for number, node in enumerate(nodes):
        output = node.outputs[0]
        output.name, output.type = f"v{number}", ir.TensorType(FLOAT)
    graph = ir.Graph(
        inputs, [nodes[-1].outputs[0]], nodes=nodes, initializers=weights, opset_imports={"": 19}, name="small"
    )
    return ir.Model(graph, ir_version=10)


def weight(name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array.astype(np.float32), name=name)
    return ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(FLOAT), const_value=tensor)


def test_positions_and_powers_stay_in_float32() -> None:
    """Angles of positions, and a power with what leads from it to the next product, are not halved."""
    positions = ir.Value(name="positions", shape=ir.Shape([4]), type=ir.TensorType(ir.DataType.INT64))
    x = ir.Value(name="x", shape=ir.Shape([4, 4]), type=ir.TensorType(FLOAT))
    weights = [weight("frequency", np.ones(4)), weight("three", np.array(3.0)), weight("w", np.ones((4, 4)))]
    cast = ir.node("Cast", [positions], {"to": int(FLOAT)})
    angle = ir.node("Mul", [cast.outputs[0], weights[0]])
    turned = ir.node("Mul", [x, angle.outputs[0]])
    power = ir.node("Pow", [turned.outputs[0], weights[1]])
    added = ir.node("Add", [power.outputs[0], turned.outputs[0]])
    product = ir.node("MatMul", [added.outputs[0], weights[2]])
    nodes = [cast, angle, turned, power, added, product]
    model = small_model(nodes, [positions, x], weights)
    halve(model)
    kinds = {node.op_type: node.outputs[0].dtype for node in nodes if node is not turned}
    assert kinds == {"Cast": FLOAT, "Mul": FLOAT, "Pow": FLOAT, "Add": FLOAT, "MatMul": HALF}
    assert turned.outputs[0].dtype == HALF
    assert [value.dtype for value in angle.inputs if value is not None] == [FLOAT, FLOAT]
    assert [value.dtype for value in product.inputs if value is not None] == [HALF, HALF]
    assert (model.graph.outputs[0].name, model.graph.outputs[0].dtype) == ("v5", FLOAT)


def test_a_weight_beyond_the_range_is_refused() -> None:
    """A weight that would become infinite is refused by name, with its size and what to choose instead."""
    x = ir.Value(name="x", shape=ir.Shape([4, 4]), type=ir.TensorType(FLOAT))
    big = weight("big", np.full((4, 4), 7e4))
    model = small_model([ir.node("MatMul", [x, big])], [x], [big])
    with pytest.raises(ConversionError, match="weight big reaches 7e\\+04, float16 ends at 65504: choose"):
        halve(model)
