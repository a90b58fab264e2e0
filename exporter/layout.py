"""How is an exported decoder graph laid out so that little runs between the matrix multiplications?

Rewrites that change no value: reshapes that cancel each other go, a Gemm by a constant becomes MatMul and Add and a
factor leaves FusedMatMul (the forms that the quantizer knows), the choice of positions to keep becomes one Gather,
sibling projections of the same input become one multiplication (queries, keys and values are given to the attention
node packed, as they are where the model packs them itself), and onnxscript's fusions turn norms and skip connections
into single nodes.

Does not know where the graph came from, and never touches a weight's value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from exporter.errors import ConversionError

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir


def lay_out(model: ir.Model) -> None:
    """Apply all rewrites to `model` in place."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    _cut_reshapes(model.graph)
    _split_gemms(model.graph)
    _gather_kept_positions(model.graph)
    RemoveUnusedNodesPass()(model)
    optimize_for_ort(model)
    _part_scales(model.graph)
    _pack_attention_inputs(model.graph)
    RemoveUnusedNodesPass()(model)


def lay_out_standard(model: ir.Model, opset: int) -> None:
    """What `lay_out` does with operators of ONNX alone, in place; `opset` is what the traced nodes belong to."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass
    from onnxscript.optimizer import optimize
    from onnxscript.rewriter.rules.fusion._rms_normalization import fuse_rms_normalization

    _cut_reshapes(model.graph)
    _split_gemms(model.graph)
    _gather_kept_positions(model.graph)
    fuse_rms_normalization(model)
    model.opset_imports[""] = opset
    optimize(model)
    ShapeInferencePass()(model)
    RemoveUnusedNodesPass()(model)


def _cut_reshapes(graph: ir.Graph) -> None:
    """A chain of Reshapes keeps the order of elements, so one that ends in the shape it began with is nothing."""
    for node in list(graph):
        if node.op_type != "Reshape":
            continue
        output = node.outputs[0]
        source = node.inputs[0]
        if output.is_graph_output() or not _is_known(output.shape):
            continue
        while source is not None and source.shape != output.shape and _op(source) == "Reshape":
            producer = source.producer()
            assert producer is not None
            source = producer.inputs[0]
        if source is not None and source.shape is not None and source.shape == output.shape:
            output.replace_all_uses_with(source)


def _is_known(shape: ir.Shape | None) -> bool:
    """Whether every dimension has a number or a name: two dimensions without either may differ."""
    return shape is not None and not any(shape.is_unknown_dim(axis) for axis in range(len(shape)))


def _split_gemms(graph: ir.Graph) -> None:
    """Gemm(x, W, bias) of a constant W becomes Add(MatMul(x, W), bias), around the Reshapes to two dimensions and back.

    GPT-2's layers (`Conv1D`) arrive so, between a Reshape that joins batch and sequence and one that parts them again.
    """
    import onnx_ir as ir

    for gemm in list(graph):
        if gemm.op_type != "Gemm" or not _is_plain_gemm(gemm):
            continue
        source, last = gemm.inputs[0], gemm
        before, after = _producer(source), _only_consumer(gemm.outputs[0])
        if before is not None and before.op_type == "Reshape" and after is not None and after.op_type == "Reshape":
            whole, parted = before.inputs[0], after.outputs[0]
            if whole is not None and _same_leading(whole.shape, parted.shape):
                source, last = whole, after
        nodes = [ir.node("MatMul", [source, gemm.inputs[1]])]
        if len(gemm.inputs) == 3:
            nodes.append(ir.node("Add", [nodes[0].outputs[0], gemm.inputs[2]]))
        output = last.outputs[0]
        for node in nodes:
            node.outputs[0].name = f"{gemm.outputs[0].name}.{node.op_type}"
            node.outputs[0].shape, node.outputs[0].type = output.shape, output.type
        graph.insert_before(gemm, nodes)
        output.replace_all_uses_with(nodes[-1].outputs[0], replace_graph_outputs=True)


def _part_scales(graph: ir.Graph) -> None:
    """FusedMatMul with a factor by a constant becomes FusedMatMul and Mul, since the quantizer knows no factor.

    So arrives the head of Gemma 2, whose logits are divided by their soft cap.
    """
    import numpy as np
    import onnx_ir as ir

    for fused in list(graph):
        alpha = fused.attributes.get("alpha")
        if fused.op_type != "FusedMatMul" or alpha is None or alpha.as_float() == 1 or not _has_weight(fused):
            continue
        output = fused.outputs[0]
        factor = ir.Value(name=f"{output.name}.factor", const_value=ir.tensor(np.float32(alpha.as_float())))
        graph.register_initializer(factor)
        scaled = ir.node("Mul", [output, factor])
        scaled.outputs[0].shape, scaled.outputs[0].type = output.shape, output.type
        graph.insert_after(fused, scaled)
        output.replace_all_uses_with(scaled.outputs[0], replace_graph_outputs=True)
        scaled.replace_input_with(0, output)
        scaled.outputs[0].name, output.name = output.name, f"{output.name}.unscaled"
        fused.attributes["alpha"] = ir.AttrFloat32("alpha", 1.0)


def _has_weight(product: ir.Node) -> bool:
    return any(_constant(value) is not None for value in product.inputs)


def _is_plain_gemm(node: ir.Node) -> bool:
    """x @ W + bias and nothing else, with a constant W. The tracing drops a bias that is all zero."""
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    whole = len(node.inputs) == 2 or node.inputs[2] is not None
    defaults = all(attribute.value == plain.get(name) for name, attribute in node.attributes.items())
    return whole and defaults and _constant(node.inputs[1]) is not None


def _same_leading(one: ir.Shape | None, other: ir.Shape | None) -> bool:
    """Whether all dimensions but the last are known to be equal."""
    if one is None or other is None or not (_is_known(one) and _is_known(other)):
        return False
    return list(one)[:-1] == list(other)[:-1]


def _only_consumer(value: ir.Value) -> ir.Node | None:
    uses = value.uses()
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _gather_kept_positions(graph: ir.Graph) -> None:
    """Indexing (batch, sequence, hidden) by a vector of positions arrives as Transpose, GatherND, Transpose."""
    import onnx_ir as ir

    for last in list(graph):
        gather = _producer(last.inputs[0]) if last.op_type == "Transpose" else None
        first = _producer(gather.inputs[0]) if gather is not None and gather.op_type == "GatherND" else None
        if gather is None or first is None or first.op_type != "Transpose":
            continue
        unsqueeze = _producer(gather.inputs[1])
        if unsqueeze is None or unsqueeze.op_type != "Unsqueeze":
            continue
        swaps = [tuple(n.attributes["perm"].as_ints()) for n in (first, last)]
        if swaps != [(1, 0, 2), (1, 0, 2)]:
            continue
        kept = ir.node("Gather", [first.inputs[0], unsqueeze.inputs[0]], {"axis": 1})
        kept.outputs[0].name = "kept_hidden_states"
        kept.outputs[0].shape, kept.outputs[0].type = last.outputs[0].shape, last.outputs[0].type
        graph.insert_before(last, kept)
        last.outputs[0].replace_all_uses_with(kept.outputs[0])


def _pack_attention_inputs(graph: ir.Graph) -> None:
    """Three projections of one input that feed one attention node become one projection with a packed output."""
    for node in list(graph):
        if node.op_type != "GroupQueryAttention":
            continue
        packed = _packed_already(node.inputs[:3])
        if packed is not None:
            _give_packed(node, packed)
            continue
        projections = [_producer(value) for value in node.inputs[:3]]
        if any(p is None or len(p.outputs[0].uses()) != 1 for p in projections):
            continue
        whole = _merged(graph, [p for p in projections if p is not None], node)
        if whole is not None:
            _give_packed(node, whole)


def _give_packed(node: ir.Node, whole: ir.Value) -> None:
    node.replace_input_with(0, whole)
    node.replace_input_with(1, None)
    node.replace_input_with(2, None)


def _packed_already(parts: Sequence[ir.Value | None]) -> ir.Value | None:
    """The value whose last axis is `parts` side by side, where they are a Split of it or Slices from it."""
    wholes, reached = [], 0
    for part in parts:
        cut = _producer(part)
        if part is None or cut is None or cut.op_type not in ("Split", "Slice") or part.shape is None:
            return None
        whole, start, width = cut.inputs[0], _first_of(cut, part), part.shape[-1]
        if whole is None or start != reached or not isinstance(width, int):
            return None
        wholes.append(whole)
        reached += width
    whole = wholes[0]
    same = all(other is whole for other in wholes)
    return whole if same and whole.shape is not None and whole.shape[-1] == reached else None


def _first_of(cut: ir.Node, part: ir.Value) -> int | None:
    """Where on the last axis of its source `part`, an output of a Split or a Slice, begins; None if elsewhere."""
    last = len(part.shape or ()) - 1
    if cut.op_type == "Split":
        axis = cut.attributes["axis"].as_int() if "axis" in cut.attributes else 0
        widths = [None if one.shape is None else one.shape[-1] for one in cut.outputs[: cut.outputs.index(part)]]
        known = [width for width in widths if isinstance(width, int)]
        return sum(known) if axis in (-1, last) and len(known) == len(widths) else None
    starts, _, axes, *steps = (_constant(value) for value in cut.inputs[1:])
    if starts is None or axes is None or axes.tolist() not in ([-1], [last]):
        return None
    return int(starts[0]) if not steps or (steps[0] is not None and steps[0].tolist() == [1]) else None


def _merged(graph: ir.Graph, parts: list[ir.Node], before: ir.Node) -> ir.Value | None:
    """One MatMul (and Add) for `parts`, each MatMul or Add(MatMul, bias) of one input by constants; None if not."""
    import onnx_ir as ir

    products = [_producer_of_product(part) for part in parts]
    if any(p is None for p in products):
        return None
    matmuls = [p[0] for p in products if p is not None]
    biases = [p[1] for p in products if p is not None]
    if len({id(m.inputs[0]) for m in matmuls}) != 1 or len({b is None for b in biases}) != 1:
        return None
    weights = [_constant(m.inputs[1]) for m in matmuls]
    if any(w is None for w in weights):
        return None
    name = "+".join(str(m.inputs[1].name) for m in matmuls if m.inputs[1] is not None)
    packed = ir.node("MatMul", [matmuls[0].inputs[0], _initializer(graph, name, weights)])
    nodes = [packed]
    if biases[0] is not None:
        bias = _initializer(graph, f"{name}.bias", [_constant(b) for b in biases])
        nodes.append(ir.node("Add", [packed.outputs[0], bias]))
    for node in nodes:
        node.outputs[0].name = f"{name}.{node.op_type}"
        node.outputs[0].type = matmuls[0].outputs[0].type
    graph.insert_before(before, nodes)
    return nodes[-1].outputs[0]


def _producer_of_product(node: ir.Node) -> tuple[ir.Node, ir.Value | None] | None:
    """(MatMul, bias or None) behind a projection's last node, where its weight is constant."""
    if node.op_type == "MatMul":
        return (node, None) if _constant(node.inputs[1]) is not None else None
    if node.op_type != "Add":
        return None
    for product, bias in (node.inputs, tuple(reversed(node.inputs))):
        matmul = _producer(product)
        if matmul is not None and matmul.op_type == "MatMul" and _constant(bias) is not None:
            return (matmul, bias) if len(matmul.outputs[0].uses()) == 1 else None
    return None


def _initializer(graph: ir.Graph, name: str, parts: list[np.ndarray | None]) -> ir.Value:
    """A new initializer: `parts` side by side along the last axis."""
    import numpy as np
    import onnx_ir as ir

    if any(part is None for part in parts):
        raise ConversionError(f"the parts of {name} are not all constants: the projections cannot be packed")
    tensor = ir.tensor(np.concatenate([p for p in parts if p is not None], axis=-1), name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _constant(value: ir.Value | None) -> np.ndarray | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _op(value: ir.Value) -> str:
    producer = value.producer()
    return "" if producer is None else producer.op_type
