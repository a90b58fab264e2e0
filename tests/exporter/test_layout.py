"""Rewrites that take nodes away and change no value."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir

from exporter.layout import lay_out

FLOAT = ir.TensorType(ir.DataType.FLOAT)


def value(name: str, *shape: int | str) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=FLOAT)


def constant(name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)


def shaped(node: ir.Node, name: str, *shape: int | str) -> ir.Value:
    output = node.outputs[0]
    output.name, output.shape, output.type = name, ir.Shape(shape), FLOAT
    return output


def model_of(
    inputs: list[ir.Value], outputs: list[ir.Value], nodes: list[ir.Node], weights: list[ir.Value]
) -> ir.Model:
    graph = ir.Graph(inputs, outputs, nodes=nodes, initializers=weights, opset_imports={"": 21})
    return ir.Model(graph, ir_version=10)


def run(model: ir.Model, path: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    import onnxruntime

    ir.save(model, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, feeds)[0]
    return result


def test_reshapes_that_cancel_each_other_go() -> None:
    """A chain of Reshapes that ends in the shape it began with disappears; one that does not stays."""
    x = value("x", "batch", 8)
    there = ir.node("Reshape", [x, constant("there", np.array([-1, 2, 4]))])
    back = ir.node("Reshape", [shaped(there, "split", "batch", 2, 4), constant("back", np.array([-1, 8]))])
    use = ir.node("Relu", [shaped(back, "joined", "batch", 8)])
    keep = ir.node("Reshape", [shaped(use, "used", "batch", 8), constant("keep", np.array([-1, 4, 2]))])
    model = model_of([x], [shaped(keep, "y", "batch", 4, 2)], [there, back, use, keep], [])
    for name in ("there", "back", "keep"):
        node = {"there": there, "back": back, "keep": keep}[name]
        assert node.inputs[1] is not None
        model.graph.register_initializer(node.inputs[1])
    lay_out(model)
    assert [node.op_type for node in model.graph] == ["Relu", "Reshape"]


def test_a_dimension_that_is_not_known_equals_no_other() -> None:
    """Two shapes that look alike because a dimension has neither number nor name are not taken for equal."""
    x = ir.Value(name="x", shape=ir.Shape([None, 8]), type=FLOAT)
    reshape = ir.node("Reshape", [x, constant("to", np.array([-1, 8]))])
    output = reshape.outputs[0]
    output.name, output.shape, output.type = "split", ir.Shape([None, 8]), FLOAT
    use = ir.node("Relu", [output])
    weights = [value for value in reshape.inputs if value is not None and value.name == "to"]
    model = model_of([x], [shaped(use, "y", "rows", 8)], [reshape, use], weights)
    lay_out(model)
    assert [node.op_type for node in model.graph] == ["Reshape", "Relu"]


def test_keeping_positions_is_one_gather(tmp_path: Path) -> None:
    """Transpose, GatherND, Transpose become one Gather that picks the same positions."""
    hidden, kept = (
        value("hidden", "b", "s", 3),
        ir.Value(name="kept", shape=ir.Shape(["k"]), type=ir.TensorType(ir.DataType.INT64)),
    )
    axis = constant("axis", np.array([-1]))
    turned = ir.node("Transpose", [hidden], {"perm": [1, 0, 2]})
    column = ir.node("Unsqueeze", [kept, axis])
    column.outputs[0].name = "column"
    picked = ir.node("GatherND", [shaped(turned, "turned", "s", "b", 3), column.outputs[0]])
    last = ir.node("Transpose", [shaped(picked, "picked", "k", "b", 3)], {"perm": [1, 0, 2]})
    relu = ir.node("Relu", [shaped(last, "last", "b", "k", 3)])
    nodes = [turned, column, picked, last, relu]
    model = model_of([hidden, kept], [shaped(relu, "y", "b", "k", 3)], nodes, [axis])
    feeds = {"hidden": np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)}
    feeds["kept"] = np.array([4, 0])
    wanted = run(model, tmp_path / "before.onnx", feeds)
    lay_out(model)
    assert Counter(node.op_type for node in model.graph) == {"Gather": 1, "Relu": 1}
    assert np.array_equal(run(model, tmp_path / "after.onnx", feeds), wanted)


def test_a_gemm_between_reshapes_is_a_product_and_a_sum(tmp_path: Path) -> None:
    """A Gemm by a constant becomes MatMul and Add on the input as it was, and gives the same."""
    draw = np.random.default_rng(0)
    x = value("x", "b", "s", 4)
    weights = [
        constant("flat", np.array([-1, 4])),
        constant("weight", draw.standard_normal((4, 6)).astype(np.float32)),
        constant("bias", draw.standard_normal(6).astype(np.float32)),
        constant("shape", np.array([2, 5, 6])),
    ]
    joined = ir.node("Reshape", [x, weights[0]])
    gemm = ir.node("Gemm", [shaped(joined, "joined", "b*s", 4), weights[1], weights[2]], {"beta": 1.0})
    parted = ir.node("Reshape", [shaped(gemm, "product", "b*s", 6), weights[3]])
    relu = ir.node("Relu", [shaped(parted, "parted", "b", "s", 6)])
    model = model_of([x], [shaped(relu, "y", "b", "s", 6)], [joined, gemm, parted, relu], weights)
    feeds = {"x": draw.standard_normal((2, 5, 4)).astype(np.float32)}
    wanted = run(model, tmp_path / "before.onnx", feeds)
    lay_out(model)
    assert [node.op_type for node in model.graph] == ["MatMul", "Add", "Relu"]
    assert np.allclose(run(model, tmp_path / "after.onnx", feeds), wanted, atol=1e-6)


def test_a_factor_leaves_the_product(tmp_path: Path) -> None:
    """A product by a transposed constant, divided by a number, is a product without a factor and a Mul."""
    draw = np.random.default_rng(0)
    x = value("x", "b", 4)
    weight = constant("weight", draw.standard_normal((6, 4)).astype(np.float32))
    cap = constant("cap", np.array(5.0, np.float32))
    turned = ir.node("Transpose", [weight], {"perm": [1, 0]})
    product = ir.node("MatMul", [x, shaped(turned, "turned", 4, 6)])
    divided = ir.node("Div", [shaped(product, "product", "b", 6), cap])
    model = model_of([x], [shaped(divided, "y", "b", 6)], [turned, product, divided], [weight, cap])
    feeds = {"x": draw.standard_normal((3, 4)).astype(np.float32)}
    wanted = run(model, tmp_path / "before.onnx", feeds)
    lay_out(model)
    assert [node.op_type for node in model.graph] == ["FusedMatMul", "Mul"]
    assert model.graph.node(0).attributes["alpha"].as_float() == 1
    assert [output.name for output in model.graph.outputs] == ["y"]
    assert np.allclose(run(model, tmp_path / "after.onnx", feeds), wanted, atol=1e-6)


def attention_over(cuts: list[ir.Node], values: list[ir.Value], weights: list[ir.Value]) -> ir.Model:
    """A graph whose attention takes `values`, made by `cuts` from "whole"."""
    lengths = [
        ir.Value(name="last", shape=ir.Shape(["b"]), type=ir.TensorType(ir.DataType.INT32)),
        ir.Value(name="total", shape=ir.Shape([]), type=ir.TensorType(ir.DataType.INT32)),
    ]
    attributes = {"num_heads": 2, "kv_num_heads": 1}
    attend = ir.node(
        "GroupQueryAttention",
        [*values, None, None, *lengths],
        attributes,
        num_outputs=3,
        domain="com.microsoft",
    )
    for output, name in zip(attend.outputs[1:], ("key", "value"), strict=True):
        output.name = name
    y = shaped(attend, "y", "b", "s", 16)
    (whole,) = {cut.inputs[0] for cut in cuts}
    assert whole is not None
    return model_of([whole, *lengths], [y], [*cuts, attend], weights)


def test_projections_that_the_model_packs_stay_packed() -> None:
    """Attention takes the source of a Split or of Slices whose parts, in order, are its whole width; else the parts."""
    whole = value("whole", "b", "s", 32)
    split = ir.node("Split", [whole], {"axis": -1, "num_outputs": 3}, num_outputs=3)
    for output, width in zip(split.outputs, (16, 8, 8), strict=True):
        output.name, output.shape, output.type = f"part{id(output)}", ir.Shape(["b", "s", width]), FLOAT
    in_order = attention_over([split], list(split.outputs), [])
    lay_out(in_order)
    assert [node.op_type for node in in_order.graph] == ["GroupQueryAttention"]

    whole = value("whole", "b", "s", 32)
    bounds = [constant(f"bound{at}", np.array([at])) for at in (0, 16, 24, 32)]
    axis = constant("axis", np.array([2]))
    cuts = [ir.node("Slice", [whole, bounds[i], bounds[i + 1], axis]) for i in (0, 2, 1)]
    parts = [
        shaped(cut, f"cut{i}", "b", "s", width) for i, (cut, width) in enumerate(zip(cuts, (16, 8, 8), strict=True))
    ]
    swapped = attention_over(cuts, parts, [*bounds, axis])
    lay_out(swapped)
    assert [node.op_type for node in swapped.graph] == ["Slice", "Slice", "Slice", "GroupQueryAttention"]
