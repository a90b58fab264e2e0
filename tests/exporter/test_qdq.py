"""Weights for TensorRT: symmetric, by channel or by block, in a form that ONNX Runtime and the parser take."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir
import pytest

from exporter import plain
from exporter.errors import ConversionError
from exporter.half import halve
from exporter.operators import unsupported
from exporter.qdq import quantize_qdq, quantize_symmetric
from tests.exporter.conftest import Exported, derived, worst_difference


@pytest.mark.parametrize(("bits", "block"), [(8, None), (4, 64), (4, 128)])
@pytest.mark.parametrize("half", [False, True])
def test_no_channel_is_worse_than_without_the_search(bits: int, block: int | None, half: bool) -> None:
    """Each block's squared error is at most that of rounding to a scale that reaches its largest weight."""
    matrix = np.random.default_rng(0).standard_normal((256, 40)).astype(np.float32)
    made = quantize_symmetric(matrix, bits, block, half=half)
    grouped = matrix.reshape(256 // (block or 256), -1, 40)
    scale = np.abs(grouped).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
    naive = np.square(np.rint(grouped / scale) * scale - grouped).sum(axis=1)
    error = np.square(made.dequantized().reshape(grouped.shape) - grouped).sum(axis=1)
    assert (error <= naive * (1.01 if half else 1.0) + 1e-9).all()
    if bits == 4:
        assert error.sum() < 0.97 * naive.sum()
    assert made.codes.min() >= -(2 ** (bits - 1))
    assert made.codes.max() < 2 ** (bits - 1)


def test_scales_are_positive_also_for_nothing() -> None:
    """TensorRT takes no scale of zero: columns of zeros, or of weights too small for float16, get one above it."""
    matrix = np.zeros((64, 2), np.float32)
    matrix[:, 1] = 1e-9
    for bits, block in ((8, None), (4, 64)):
        made = quantize_symmetric(matrix, bits, block, half=True)
        assert (made.scales > 0).all()
        assert made.scales.dtype == np.float16
        assert not made.dequantized().any()


@pytest.mark.parametrize("dialect", ["onnx", "plain"])
@pytest.mark.parametrize("bits", [8, 4])
def test_every_product_is_quantized_and_runs(
    standard_llama: Exported, tmp_path: Path, dialect: Literal["onnx", "plain"], bits: Literal[4, 8]
) -> None:
    """Head included, over fp16 weights; the surrogate runs it, with logits as far from PyTorch as such weights put it,
    and both parsers take it.
    """
    precision: dict[str, str] = {}

    def change(model: ir.Model) -> None:
        halve(model)
        if dialect == "plain":
            plain.lower(model)
        precision.update(quantize_qdq(model, bits, 64 if bits == 4 else None))

    case = derived(standard_llama, tmp_path, change, dialect)
    model = ir.load(case.path)
    assert precision == {"linear": f"int{bits}", "norm": "fp16", "embedding": "fp16"}
    assert model.opset_imports[""] == (24 if dialect == "onnx" else 21 if bits == 4 else 19)
    found = Counter(node.op_type for node in model.graph)
    assert found["DequantizeLinear"] == 2 * 7 + 1
    assert found["MatMul"] == 2 * 7 + 1 + (4 if dialect == "plain" else 0)
    for node in model.graph:
        if node.op_type == "DequantizeLinear":
            codes, scales, zeros = (value.const_value for value in node.inputs if value is not None)
            assert codes is not None
            assert scales is not None
            assert zeros is not None
            assert codes.dtype == zeros.dtype == (ir.DataType.INT8 if bits == 8 else ir.DataType.INT4)
            assert not zeros.numpy().any()
    difference, largest = worst_difference(case)
    assert difference < largest * (0.1 if bits == 8 else 0.8)
    assert unsupported(case.path, "10.3" if dialect == "plain" else "10.16") == []
    if bits == 4:
        pytest.importorskip("tensorrt_rtx")
        from exporter.engine import parse_graph

        assert parse_graph(case.path) == []


def test_a_tied_head_gets_bytes_of_its_own(standard_llama: Exported, tmp_path: Path) -> None:
    """The embedding keeps its rows; the head's codes are laid out as the product wants them."""
    case = derived(standard_llama, tmp_path, lambda model: quantize_qdq(model, 8))
    shapes = {name: tuple(value.shape or ()) for name, value in ir.load(case.path).graph.initializers.items()}
    assert shapes["model.lm_head.weight"] == (300, 64)
    assert shapes["model.lm_head.weight.codes"] == (64, 300)


def test_four_bits_take_half_a_byte(standard_llama: Exported, tmp_path: Path) -> None:
    """Codes of 4 bits lie two to a byte in the file, and come back as they were."""
    case = derived(standard_llama, tmp_path, lambda model: quantize_qdq(model, 4, 64))
    weight = ir.load(case.path).graph.initializers["model.lm_head.weight.codes"].const_value
    assert weight is not None
    assert weight.nbytes == 64 * 300 // 2
    original = ir.load(standard_llama.path).graph.initializers["model.lm_head.weight"].const_value
    assert original is not None
    made = quantize_symmetric(original.numpy().T, 4, 64)
    assert np.array_equal(weight.numpy().astype(np.int8), made.codes)


def test_what_is_no_whole_number_of_blocks_is_refused(tmp_path: Path) -> None:
    """Nothing is padded or left in floats silently: the matrix is named, and what would go."""
    array = np.ones((192, 8), np.float32)
    for rows, block, advice in ((192, 128, "choose blocks of 64 or int8"), (96, 64, "choose int8")):
        x = ir.Value(name="x", shape=ir.Shape(["n", rows]), type=ir.TensorType(ir.DataType.FLOAT))
        tensor = ir.tensor(array[:rows], name="w")
        w = ir.Value(name="w", shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        node = ir.node("MatMul", [x, w])
        graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 24})
        with pytest.raises(
            ConversionError, match=f"w has {rows} inputs, no whole number of blocks of {block}: {advice}"
        ):
            quantize_qdq(ir.Model(graph, ir_version=10), 4, block)


@pytest.mark.parametrize(("bits", "block"), [(8, 64), (4, None), (4, 32)])
def test_other_forms_are_refused(bits: Literal[4, 8], block: int | None) -> None:
    """Only what TensorRT takes is written."""
    model = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 24}), ir_version=10)
    with pytest.raises(ConversionError, match="int8 has none, int4 has 64 or 128"):
        quantize_qdq(model, bits, block)
