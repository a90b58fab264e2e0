"""How are the weights of a decoder graph quantized block by block?

Weight-only, asymmetric, round to nearest: every 32 consecutive weights of an output row share a float32 scale and an
integer zero point (integer, because ONNX Runtime's CPU kernels are about 30 times slower with floating ones).
Matrix multiplications become `com.microsoft::MatMulNBits`, the embedding `com.microsoft::GatherBlockQuantized`. An
output head tied to the embedding uses the same bytes: `graph_file.py` then stores them once.

Does not know whether the result is still truthful; `verify.py` finds out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from exporter.errors import ConversionError

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

BLOCK: Final = 32
_ROWS_AT_ONCE: Final = 8192  # bounds the temporaries, about 20 bytes a weight


class Blocks(msgspec.Struct, frozen=True, kw_only=True):
    """A quantized matrix of `rows` x `columns`, dequantized as (code - zero_point) * scale.

    `codes` uint8 (rows, blocks, 32 * bits / 8), `scales` float32 (rows, blocks), `zero_points` uint8
    (rows, ceil(blocks * bits / 8)); 4-bit values lie two to a byte, the first in the low half.
    """

    bits: int
    columns: int
    codes: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray

    def dequantized(self) -> np.ndarray:
        """The float32 (rows, columns) matrix that these blocks stand for."""
        import numpy as np

        rows, blocks = self.scales.shape
        codes = _unpacked(self.codes, self.bits).reshape(rows, blocks, BLOCK).astype(np.float32)
        zeros = _unpacked(self.zero_points, self.bits)[:, :blocks, None]
        weights = (codes - zeros) * self.scales[:, :, None]
        whole: np.ndarray = weights.reshape(rows, blocks * BLOCK)[:, : self.columns]
        return whole


def quantize_matrix(matrix: np.ndarray, bits: int) -> Blocks:
    """Quantize float32 (rows, columns) along its columns; the error of a weight is at most half its block's scale.

    Zero is always representable, so the padding of a last short block costs nothing.
    """
    import numpy as np

    parts = [
        _quantized_rows(matrix[start : start + _ROWS_AT_ONCE], bits) for start in range(0, len(matrix), _ROWS_AT_ONCE)
    ]
    codes, scales, zero_points = (np.concatenate(group) for group in zip(*parts, strict=True))
    return Blocks(bits=bits, columns=matrix.shape[1], codes=codes, scales=scales, zero_points=zero_points)


def quantize(model: ir.Model, bits: int) -> dict[str, str]:
    """Quantize every matrix multiplication and the embedding of `model` in place, to 4 or 8 bits.

    Returns the precision of each group of tensors, for the manifest.
    Raises ConversionError when nothing in the graph could be quantized.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    done: dict[str, Blocks] = {}
    name = f"int{bits}"
    precision = {"linear": name, "norm": "fp32"}
    for node in list(model.graph):
        if node.op_type in ("MatMul", "FusedMatMul"):
            _quantize_product(model.graph, node, bits, done)
        elif node.op_type == "Gather" and _weight_of(node, 0) is not None:
            precision["embedding"] = name if _quantize_gather(model.graph, node, bits, done) else "fp32"
    if not done:
        raise ConversionError("the graph has no matrix multiplication with a constant weight: nothing to quantize")
    model.opset_imports["com.microsoft"] = 1
    RemoveUnusedNodesPass()(model)
    return precision


def _quantize_product(graph: ir.Graph, node: ir.Node, bits: int, done: dict[str, Blocks]) -> None:
    """Replace MatMul(x, W), MatMul(x, Transpose(W)) or FusedMatMul(x, W, transB=1) by MatMulNBits."""
    import onnx_ir as ir

    found = _rows_of_product(node)
    if found is None:
        return
    key, rows = found
    blocks = done.setdefault(key, quantize_matrix(rows, bits)) if key not in done else done[key]
    n, k = rows.shape
    product = ir.node(
        "MatMulNBits",
        [node.inputs[0], *_initializers(graph, key, blocks, as_embedding=False)],
        {"K": k, "N": n, "bits": bits, "block_size": BLOCK, "accuracy_level": 4},
        domain="com.microsoft",
    )
    _replace(graph, node, product)


def _quantize_gather(graph: ir.Graph, node: ir.Node, bits: int, done: dict[str, Blocks]) -> bool:
    """Replace Gather(W, ids) of rows by GatherBlockQuantized; False where its rows are not whole blocks."""
    import onnx_ir as ir

    found = _weight_of(node, 0)
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    if found is None or axis != 0 or found[1].ndim != 2 or found[1].shape[1] % BLOCK:
        return False
    key, rows = found
    if key not in done:
        done[key] = quantize_matrix(rows, bits)
    data, scales, zero_points = _initializers(graph, key, done[key], as_embedding=True)
    gather = ir.node(
        "GatherBlockQuantized",
        [data, node.inputs[1], scales, zero_points],
        {"bits": bits, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1},
        domain="com.microsoft",
    )
    _replace(graph, node, gather)
    return True


def _initializers(graph: ir.Graph, key: str, blocks: Blocks, *, as_embedding: bool) -> list[ir.Value]:
    """Codes, scales and zero points as initializers; the embedding's codes are a view of the head's, flattened."""
    rows = len(blocks.codes)
    codes = blocks.codes.reshape(rows, -1) if as_embedding else blocks.codes
    suffix = "rows" if as_embedding else "blocks"
    return [
        _initializer(graph, f"{key}.{suffix}", codes),
        _initializer(graph, f"{key}.scales", blocks.scales),
        _initializer(graph, f"{key}.zero_points", blocks.zero_points),
    ]


def _initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    import onnx_ir as ir

    if name in graph.initializers:
        return graph.initializers[name]
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _replace(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    output, source = new.outputs[0], old.outputs[0]
    output.shape, output.type = source.shape, source.type
    graph.insert_before(old, new)
    source.replace_all_uses_with(output, replace_graph_outputs=True)
    output.name, source.name = source.name, f"{source.name}.unquantized"


def _rows_of_product(node: ir.Node) -> tuple[str, np.ndarray] | None:
    """(name, weight as output rows x inputs) of a product by a constant matrix, else None."""
    weight = _weight_of(node, 1)
    if weight is None:
        transpose = node.inputs[1].producer() if node.inputs[1] is not None else None
        if transpose is None or transpose.op_type != "Transpose" or node.op_type != "MatMul":
            return None
        weight = _weight_of(transpose, 0)
        return weight if weight is not None and weight[1].ndim == 2 else None
    name, array = weight
    if array.ndim != 2:
        return None
    if node.op_type == "MatMul":
        return name, array.T
    attributes = {key: attribute.value for key, attribute in node.attributes.items()}
    plain = attributes.pop("alpha", 1.0) == 1.0 and attributes == {"transB": 1}
    return (name, array) if plain else None


def _weight_of(node: ir.Node, index: int) -> tuple[str, np.ndarray] | None:
    import numpy as np

    value = node.inputs[index]
    if value is None or value.const_value is None or value.name is None:
        return None
    array = value.const_value.numpy()
    return (value.name, array) if array.dtype == np.float32 else None


def _quantized_rows(matrix: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import numpy as np

    rows, columns = matrix.shape
    blocks = -(-columns // BLOCK)
    padded = np.zeros((rows, blocks * BLOCK), np.float32)
    padded[:, :columns] = matrix
    grouped = padded.reshape(rows, blocks, BLOCK)
    top = float(2**bits - 1)
    low = np.minimum(grouped.min(axis=2), 0.0)
    high = np.maximum(grouped.max(axis=2), 0.0)
    scales = (high - low) / np.float32(top)
    scales[scales == 0] = 1.0
    zeros = np.clip(np.rint(-low / scales), 0, top)
    codes = np.clip(np.rint(grouped / scales[:, :, None]) + zeros[:, :, None], 0, top).astype(np.uint8)
    packed = _packed(codes.reshape(rows, -1), bits).reshape(rows, blocks, BLOCK * bits // 8)
    return packed, scales.astype(np.float32), _packed(zeros.astype(np.uint8), bits)


def _packed(values: np.ndarray, bits: int) -> np.ndarray:
    """uint8 (rows, n) to (rows, ceil(n * bits / 8))."""
    import numpy as np

    if bits == 8:
        return values
    if values.shape[1] % 2:
        values = np.pad(values, ((0, 0), (0, 1)))
    packed: np.ndarray = values[:, 0::2] | (values[:, 1::2] << 4)
    return packed


def _unpacked(values: np.ndarray, bits: int) -> np.ndarray:
    import numpy as np

    flat = values.reshape(len(values), -1)
    if bits == 8:
        return flat
    return np.stack((flat & 15, flat >> 4), axis=-1).reshape(len(flat), -1)
