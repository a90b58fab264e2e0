"""How does a graph compute with quantized weights?

`matrices` finds what can be quantized in a decoder or encoder graph: matrix multiplications by a constant, and the
embedding. `rewrite` puts blocks (`blocks.py`) in their place: multiplications become `com.microsoft::MatMulNBits`, the
embedding `com.microsoft::GatherBlockQuantized`. A head tied to its embedding uses the same bytes: `graph_file.py` then
stores them once.

A block's offset adds `offset * sum of its inputs` to the output. The kernels know no offsets, so the sums become inputs
of their own: the input is extended by the mean of each of its blocks (AveragePool, Concat), the weight by columns of
`offset * block size`, quantized like the rest.

Does not know how codes were chosen, nor whether the result is still truthful; `verify.py` finds out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from exporter.blocks import Blocks, Floats, packed, unpacked
from exporter.errors import ConversionError
from exporter.rounding import round_to_nearest

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir


class Matrix(msgspec.Struct, frozen=True, kw_only=True):
    """A constant float32 matrix of the graph, as output `rows` x inputs.

    `inputs` names the values that it is multiplied with; `embeds` tells whether rows of it are looked up as well;
    `transposed`, that the initializer lies the other way round.
    """

    name: str
    rows: Floats
    inputs: tuple[str, ...] = ()
    embeds: bool = False
    transposed: bool = False


def matrices(model: ir.Model) -> dict[str, Matrix]:
    """What can be quantized, by the initializer's name, in the order of the graph.

    Raises ConversionError where there is nothing.
    """
    found: dict[str, Matrix] = {}
    for node in model.graph:
        if (product := _rows_of_product(node)) is not None:
            name, rows = product
            known = found.get(name, Matrix(name=name, rows=rows, transposed=_is_transposed(node)))
            fed = str(node.inputs[0].name if node.inputs[0] is not None else "")
            found[name] = msgspec.structs.replace(known, inputs=(*known.inputs, fed))
        elif (embedding := _rows_of_embedding(node)) is not None:
            name, rows = embedding
            known = found.get(name, Matrix(name=name, rows=rows))
            found[name] = msgspec.structs.replace(known, embeds=True)
    if not any(matrix.inputs for matrix in found.values()):
        raise ConversionError("the graph has no matrix multiplication with a constant weight: nothing to quantize")
    return found


def rewrite(model: ir.Model, blocks: Mapping[str, Blocks]) -> None:
    """Let `model` compute with `blocks`, by the names that `matrices` gave; others stay as they are."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    extended: dict[int, ir.Value] = {}
    for node in list(model.graph):
        if (product := _rows_of_product(node)) is not None and product[0] in blocks:
            _rewrite_product(model.graph, node, product[0], blocks[product[0]], extended)
        elif (embedding := _rows_of_embedding(node)) is not None and embedding[0] in blocks:
            _rewrite_embedding(model.graph, node, embedding[0], blocks[embedding[0]])
    model.opset_imports["com.microsoft"] = 1
    RemoveUnusedNodesPass()(model)


def _rewrite_product(graph: ir.Graph, node: ir.Node, name: str, blocks: Blocks, extended: dict[int, ir.Value]) -> None:
    """Replace MatMul(x, W), MatMul(x, Transpose(W)) or FusedMatMul(x, W, transB=1) by MatMulNBits."""
    import onnx_ir as ir

    fed = node.inputs[0]
    assert fed is not None
    if blocks.offsets is not None:
        if id(fed) not in extended:
            extended[id(fed)] = _with_block_means(graph, node, fed, blocks.block)
        fed, blocks = extended[id(fed)], _with_offset_columns(blocks)
    product = ir.node(
        "MatMulNBits",
        [fed, *_initializers(graph, name, blocks, as_embedding=False)],
        {
            "K": blocks.columns,
            "N": len(blocks.codes),
            "bits": blocks.bits,
            "block_size": blocks.block,
            "accuracy_level": 4,  # activations in int8: the fast kernels
        },
        domain="com.microsoft",
    )
    _replace(graph, node, product)


def _with_block_means(graph: ir.Graph, before: ir.Node, fed: ir.Value, block: int) -> ir.Value:
    """(batch, sequence, columns) to (batch, sequence, columns + blocks): the values, then the mean of each block."""
    import onnx_ir as ir

    means = ir.node("AveragePool", [fed], {"kernel_shape": [block], "strides": [block]})
    both = ir.node("Concat", [fed, means.outputs[0]], {"axis": -1})
    for node, suffix in ((means, "means"), (both, "extended")):
        node.outputs[0].name = f"{fed.name}.{suffix}"
        node.outputs[0].type = fed.type
    graph.insert_before(before, (means, both))
    return both.outputs[0]


def _with_offset_columns(blocks: Blocks) -> Blocks:
    """The same matrix for an input that is followed by the mean of each of its blocks."""
    import numpy as np

    assert blocks.offsets is not None
    more = round_to_nearest(blocks.offsets * blocks.block, blocks.bits, blocks.block)
    count = blocks.scales.shape[1]
    zeros = [unpacked(part.zero_points, part.bits)[:, : part.scales.shape[1]] for part in (blocks, more)]
    return Blocks(
        bits=blocks.bits,
        block=blocks.block,
        columns=blocks.columns + count,
        codes=np.concatenate((blocks.codes, more.codes), axis=1),
        scales=np.concatenate((blocks.scales, more.scales), axis=1),
        zero_points=packed(np.concatenate(zeros, axis=1), blocks.bits),
    )


def _rewrite_embedding(graph: ir.Graph, node: ir.Node, name: str, blocks: Blocks) -> None:
    """Replace Gather(W, ids) of rows by GatherBlockQuantized."""
    import onnx_ir as ir

    if blocks.offsets is not None:
        raise ConversionError(f"{name} is looked up by rows: its blocks must have no offsets")
    data, scales, zero_points = _initializers(graph, name, blocks, as_embedding=True)
    gather = ir.node(
        "GatherBlockQuantized",
        [data, node.inputs[1], scales, zero_points],
        {"bits": blocks.bits, "block_size": blocks.block, "gather_axis": 0, "quantize_axis": 1},
        domain="com.microsoft",
    )
    _replace(graph, node, gather)


def _initializers(graph: ir.Graph, name: str, blocks: Blocks, *, as_embedding: bool) -> list[ir.Value]:
    """Codes, scales and zero points as initializers; the embedding's codes are a view of the head's, flattened."""
    rows = len(blocks.codes)
    codes = blocks.codes.reshape(rows, -1) if as_embedding else blocks.codes
    suffix = "rows" if as_embedding else "blocks"
    return [
        _initializer(graph, f"{name}.{suffix}", codes),
        _initializer(graph, f"{name}.scales", blocks.scales),
        _initializer(graph, f"{name}.zero_points", blocks.zero_points),
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
    if node.op_type not in ("MatMul", "FusedMatMul"):
        return None
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


def _is_transposed(node: ir.Node) -> bool:
    """Whether the initializer of a product is inputs x outputs."""
    return node.op_type == "MatMul" and _weight_of(node, 1) is not None


def _rows_of_embedding(node: ir.Node) -> tuple[str, np.ndarray] | None:
    """(name, rows) of a lookup of tokens; small tables, of positions or token types, stay as they are."""
    ids = node.inputs[1] if node.op_type == "Gather" else None
    if ids is None or ids.name != "input_ids":
        return None
    weight = _weight_of(node, 0)
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    return weight if weight is not None and axis == 0 and weight[1].ndim == 2 else None


def _weight_of(node: ir.Node, index: int) -> tuple[str, np.ndarray] | None:
    import numpy as np

    value = node.inputs[index]
    if value is None or value.const_value is None or value.name is None:
        return None
    array = value.const_value.numpy()
    return (value.name, array) if array.dtype == np.float32 else None
