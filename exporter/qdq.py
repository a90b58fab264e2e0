"""How are the weights of a graph for TensorRT stored in 8 or 4 bits?

Weight-only and symmetric (TensorRT takes no zero point but zero), as `DequantizeLinear` before each matrix product,
the output head included: int8 with one scale for each output channel (opset 19, for float16 scales), int4 with one
for each block of inputs (opset 21, the first with INT4 and `block_size`; TensorRT wants blocks of 64 or 128). A
dialect keeps its own operators otherwise: `plain` with int4 is a graph of opset 21 that uses nothing else of it. The
embedding stays as it is, and a head tied to it gets bytes of its own.

Scales are searched: of a few that clip the largest weights a little, each channel or block takes the one with the
least squared error. Does not know whether the result is still truthful; `verify.py` finds out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from exporter.errors import ConversionError

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

BLOCKS: Final = (64, 128)
_OPSETS: Final = {8: 19, 4: 21}
_SHRUNK: Final = (1.0, 0.95, 0.875, 0.8, 0.75, 0.7)  # 7/8 lets the largest weight be -8 where it is negative
_COLUMNS_AT_ONCE: Final = 4096  # bounds the temporaries


class Symmetric(msgspec.Struct, frozen=True, kw_only=True):
    """A matrix (inputs, outputs) as `codes` * scale.

    `codes` int8 (inputs, outputs) within `bits`; `scales` (outputs,), or (inputs / block, outputs) where there is a
    `block`, float32 or float16.
    """

    bits: int
    block: int | None
    codes: np.ndarray
    scales: np.ndarray

    def dequantized(self) -> np.ndarray:
        """The float32 (inputs, outputs) matrix that this stands for."""
        import numpy as np

        scales = self.scales.astype(np.float32)
        whole: np.ndarray = self.codes * (scales if self.block is None else np.repeat(scales, self.block, axis=0))
        return whole


def quantize_qdq(model: ir.Model, bits: Literal[4, 8], block: int | None = None) -> dict[str, str]:
    """Quantize every matrix product of `model`, of dialect `onnx` or `plain`, by a constant, in place.

    `block` is 64 or 128 for 4 bits, None for 8. Returns the precision of each group of tensors, for the manifest.
    Raises ConversionError when nothing can be quantized, or a matrix has no whole number of blocks.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    if (bits, block) not in ((8, None), *((4, size) for size in BLOCKS)):
        raise ConversionError(f"QDQ weights of {bits} bits in blocks of {block}: int8 has none, int4 has 64 or 128")
    done: dict[str, ir.Value] = {}
    embedding = "fp32"
    for node in list(model.graph):
        if node.op_type == "MatMul":
            _quantize_product(model.graph, node, bits, block, done)
        elif node.op_type == "Gather" and _is_weight(node.inputs[0]):
            embedding = _name(node.inputs[0])
    if not done:
        raise ConversionError("the graph has no matrix multiplication with a constant weight: nothing to quantize")
    model.opset_imports[""] = max(model.opset_imports[""], _OPSETS[bits])
    RemoveUnusedNodesPass()(model)
    return {"linear": f"int{bits}", "norm": embedding, "embedding": embedding}


def quantize_symmetric(matrix: np.ndarray, bits: int, block: int | None, *, half: bool = False) -> Symmetric:
    """Quantize float32 (inputs, outputs); with `half` the scales are float16 and the codes made for them.

    Each scale is positive, as TensorRT requires, also where all weights are zero.
    """
    import numpy as np

    parts = [
        _quantized_columns(matrix[:, start : start + _COLUMNS_AT_ONCE], bits, block, half)
        for start in range(0, matrix.shape[1], _COLUMNS_AT_ONCE)
    ]
    codes, scales = (np.concatenate(group, axis=-1) for group in zip(*parts, strict=True))
    return Symmetric(bits=bits, block=block, codes=codes, scales=scales if block else scales[0])


def _quantized_columns(matrix: np.ndarray, bits: int, block: int | None, half: bool) -> tuple[np.ndarray, np.ndarray]:
    """Codes (inputs, outputs) and scales (blocks, outputs)."""
    import numpy as np

    inputs, outputs = matrix.shape
    grouped = matrix.astype(np.float32).reshape(inputs // (block or inputs), block or inputs, outputs)
    top = 2 ** (bits - 1) - 1
    largest = np.abs(grouped).max(axis=1, keepdims=True) / np.float32(top)
    least = np.full(largest.shape, np.inf, np.float32)
    codes = np.zeros(grouped.shape, np.int8)
    scales = np.ones_like(largest)
    for factor in _SHRUNK:
        scale = _representable(largest * np.float32(factor), half)
        tried = np.clip(np.rint(grouped / scale), -top - 1, top)
        error = np.square(tried * scale - grouped).sum(axis=1, keepdims=True)
        better = error < least
        least, scales = np.where(better, error, least), np.where(better, scale, scales)
        codes = np.where(better, tried.astype(np.int8), codes)
    return codes.reshape(inputs, outputs), scales[:, 0].astype(np.float16 if half else np.float32)


def _representable(scale: np.ndarray, half: bool) -> np.ndarray:
    """`scale` as it will be stored, as float32; 1 where it is zero, the least float16 where it would become so."""
    import numpy as np

    scale = np.where(scale > 0, scale, np.float32(1.0))
    if not half:
        return scale
    smallest = float(np.finfo(np.float16).smallest_subnormal)
    stored: np.ndarray = np.maximum(scale, smallest).astype(np.float16).astype(np.float32)
    return stored


def _quantize_product(graph: ir.Graph, node: ir.Node, bits: int, block: int | None, done: dict[str, ir.Value]) -> None:
    """Put a DequantizeLinear of the quantized weight before MatMul(x, W) or MatMul(x, Transpose(W))."""
    import numpy as np
    import onnx_ir as ir

    found = _matrix_of(node)
    if found is None:
        return
    weight, matrix = found
    key = str(weight.name)
    if key not in done:
        if block is not None and matrix.shape[0] % block:
            raise ConversionError(
                f"{key} has {matrix.shape[0]} inputs, no whole number of blocks of {block}: choose "
                f"{'blocks of 64 or ' if block == 128 and matrix.shape[0] % 64 == 0 else ''}int8"
            )
        half = weight.dtype == ir.DataType.FLOAT16
        made = quantize_symmetric(matrix, bits, block, half=half)
        kind = ir.DataType.INT8 if bits == 8 else ir.DataType.INT4
        integers: list[Any] = [made.codes, np.zeros(made.scales.shape, np.int8)]
        codes, zeros = (
            _initializer(graph, f"{key}.{part}", ir.tensor(array.astype(kind.numpy()), dtype=kind))
            for part, array in zip(("codes", "zero_points"), integers, strict=True)
        )
        scales = _initializer(graph, f"{key}.scales", ir.tensor(made.scales))
        attributes = {"axis": 1} if block is None else {"axis": 0, "block_size": block}
        dequantize = ir.node("DequantizeLinear", [codes, scales, zeros], attributes)
        done[key] = dequantize.outputs[0]
        done[key].name, done[key].shape = f"{key}.dequantized", ir.Shape(matrix.shape)
        done[key].type = ir.TensorType(ir.DataType.FLOAT16 if half else ir.DataType.FLOAT)
        graph.insert_before(node, dequantize)
    node.replace_input_with(1, done[key])


def _matrix_of(node: ir.Node) -> tuple[ir.Value, np.ndarray] | None:
    """The constant weight of a product and its values as (inputs, outputs); None where it has none."""
    weight = node.inputs[1]
    transpose = weight.producer() if weight is not None else None
    if transpose is not None and transpose.op_type == "Transpose" and _is_weight(transpose.inputs[0]):
        source = transpose.inputs[0]
        assert source is not None
        assert source.const_value is not None
        return source, source.const_value.numpy().T
    if weight is None or not _is_weight(weight):
        return None
    assert weight.const_value is not None
    return weight, weight.const_value.numpy()


def _is_weight(value: ir.Value | None) -> bool:
    import onnx_ir as ir

    floating = value is not None and value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16)
    return floating and value is not None and value.const_value is not None and len(value.const_value.shape) == 2


def _name(value: ir.Value | None) -> str:
    import onnx_ir as ir

    return "fp16" if value is not None and value.dtype == ir.DataType.FLOAT16 else "fp32"


def _initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    import onnx_ir as ir

    tensor.name = name
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
