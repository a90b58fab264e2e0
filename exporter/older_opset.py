"""How is a graph of ONNX's own operators said in an older opset, for a parser that reads no newer one?

TensorRT 8 reads opset 17, PyTorch writes 18. Between the two, reductions took their axes for an input, and attributes
came that hold what held before. Each node is then held against ONNX's own schema of the older opset: attributes,
inputs, types. What it cannot say is refused; ONNX's version converter was tried and knows no way down for Split.

Does not know who reads the graph.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from exporter.errors import ConversionError

if TYPE_CHECKING:
    import onnx_ir as ir

_AXES_AS_INPUT: Final = 18  # of every reduction but ReduceSum, which has it from 13 on


def lower_opset(model: ir.Model, opset: int) -> None:
    """Write `model` in `opset`, 13 or newer, in place. Raises ConversionError for what came later."""
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    newest = model.opset_imports[""]
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if opset < _AXES_AS_INPUT and node.op_type.startswith("Reduce") and node.op_type != "ReduceSum":
            _axes_as_attribute(node)
        if node.op_type == "Split" and len(node.inputs) == 1:
            _equal_parts(node)
        _check(node, newest, opset)
    RemoveUnusedNodesPass()(model)
    model.opset_imports[""] = opset


def _axes_as_attribute(node: ir.Node) -> None:
    import onnx_ir as ir

    if len(node.inputs) < 2 or node.inputs[1] is None:
        return
    axes = ir.convenience.get_const_tensor(node.inputs[1])
    if axes is None:
        raise ConversionError(f"{_named(node)}: axes that are computed came with opset {_AXES_AS_INPUT}")
    node.resize_inputs(1)
    node.attributes["axes"] = ir.AttrInt64s("axes", axes.numpy().tolist())


def _equal_parts(node: ir.Node) -> None:
    """Without `num_outputs` the parts are as many as the outputs, and equal: so they have to be."""
    parts = node.attributes.pop("num_outputs", None)
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    size = None if shape is None else shape[axis]
    if parts is not None and (not isinstance(size, int) or size % len(node.outputs)):
        raise ConversionError(f"{_named(node)}: parts that may differ came with opset 18")


def _check(node: ir.Node, newest: int, opset: int) -> None:
    """Drop attributes that say what holds without them; raise for all that the older schema has no place for."""
    from onnx import defs

    if node.domain not in ("", "ai.onnx"):
        raise ConversionError(f"{_named(node)} is no operator of ONNX")
    try:
        old = defs.get_schema(node.op_type, opset)
    except defs.SchemaError:
        raise ConversionError(f"{_named(node)} came after opset {opset}") from None
    new = defs.get_schema(node.op_type, newest)
    for name, attribute in list(node.attributes.items()):
        if name not in old.attributes:
            if attribute.value != _default(new.attributes[name]):
                raise ConversionError(f"{_named(node)}: its attribute {name} came after opset {opset}")
            del node.attributes[name]
    if len(node.inputs) > old.max_input:
        raise ConversionError(f"{_named(node)} has {len(node.inputs)} inputs, in opset {opset} {old.max_input}")
    for position, value in enumerate(node.inputs):
        formal = old.inputs[min(position, len(old.inputs) - 1)]
        if value is not None and value.dtype is not None and _type_name(value.dtype) not in formal.types:
            raise ConversionError(f"{_named(node)} takes {formal.name} of {value.dtype.name} after opset {opset} only")


def _default(attribute: Any) -> Any:
    from onnx import helper

    return helper.get_attribute_value(attribute.default_value) if attribute.default_value.name else None


def _type_name(dtype: ir.DataType) -> str:
    from onnx import helper

    return str(helper.tensor_dtype_to_string(int(dtype)).removeprefix("TensorProto.").lower()).join(("tensor(", ")"))


def _named(node: ir.Node) -> str:
    return f"{node.op_type} ({node.name})"
