"""How does an fp32 decoder graph become one that stores and computes in fp16?

`halve` rewrites the graph in place: weights, caches and activations become float16, `logits` are returned as float32.
Kept in float32, as transformers' own modules keep them whatever the model's type: what depends on positions alone
(rotary angles of large positions have no float16), and powers, exponentials and roots together with the element-wise
operators that lead from them to the next matrix product (a GELU's x^3 leaves float16's range at 41). Normalization
nodes compute in float32 inside.

Does not know what the graph is for, nor whether the result is still truthful: fp16 is a candidate like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from exporter.errors import ConversionError

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

_WIDE: Final = frozenset(
    {"Pow", "Exp", "Log", "Erf", "Tanh", "Softmax", "ReduceMean", "ReduceSum", "Sqrt", "Reciprocal", "Sin", "Cos"}
)
_ELEMENTWISE: Final = frozenset({"Add", "Sub", "Mul", "Div", "Neg"})


def halve(model: ir.Model) -> None:
    """Rewrite `model` to float16. Raises ConversionError for a weight beyond float16's range."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    graph = model.graph
    halving = _Halving(graph)
    for value in graph.inputs:
        if _is_float(value):
            halving.narrow(value)
    for node in list(graph):
        halving.visit(node)
    halving.widen_outputs()
    RemoveUnusedNodesPass()(model)


class _Halving:
    """Decides node by node, in order; a value is either narrow (float16), wide (float32) or no float at all."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._narrow: set[ir.Value] = set()
        self._positional: set[ir.Value] = set()
        self._constant: set[ir.Value] = {v for v in graph.initializers.values() if _is_float(v)}
        self._casts: dict[ir.Value, ir.Value] = {}
        self._halves: dict[Any, ir.Value] = {}

    def narrow(self, value: ir.Value) -> None:
        """Declare `value` to be float16."""
        import onnx_ir as ir

        value.type = ir.TensorType(ir.DataType.FLOAT16)
        self._narrow.add(value)

    def visit(self, node: ir.Node) -> None:
        """Give the node inputs of its type, casting where they are of the other one."""
        floats = [value for value in node.inputs if value is not None and (_is_float(value) or value in self._narrow)]
        if not floats and not any(map(_is_float, node.outputs)):
            return
        moving = [value for value in floats if value not in self._constant]
        if self._is_positional(node, floats, moving):
            self._positional |= set(node.outputs)
        elif not self._is_wide(node, moving):
            for index, value in enumerate(node.inputs):
                if value in floats and value not in self._narrow:
                    node.replace_input_with(index, self._as_half(value, node))
            for output in filter(_is_float, node.outputs):
                self.narrow(output)
                if not moving and node.op_type != "Gather":
                    self._constant.add(output)
            return
        for index, value in enumerate(node.inputs):
            if value in self._narrow:
                node.replace_input_with(index, self._cast(value, "FLOAT", node))

    def _is_positional(self, node: ir.Node, floats: list[ir.Value], moving: list[ir.Value]) -> bool:
        """Whether the node's floats come of integers: of the lengths, since what comes of ids is a weight's row."""
        if moving:
            return all(value in self._positional for value in moving)
        return not (floats and (node.op_type == "Gather" or all(v in self._constant for v in node.inputs if v)))

    def _is_wide(self, node: ir.Node, moving: list[ir.Value]) -> bool:
        if node.op_type in _WIDE:
            return True
        widened = [v for v in moving if v not in self._narrow and v not in self._positional]
        return node.op_type in _ELEMENTWISE and bool(widened)

    def _as_half(self, value: ir.Value, node: ir.Node) -> ir.Value:
        return self._half_weight(value) if value.const_value is not None else self._cast(value, "FLOAT16", node)

    def _half_weight(self, value: ir.Value) -> ir.Value:
        """The float16 copy of an initializer; those that share memory share their copies."""
        import numpy as np
        import onnx_ir as ir

        assert value.const_value is not None
        array = value.const_value.numpy()
        key = (array.__array_interface__["data"][0], array.shape, array.strides) if array.nbytes > 1024 else value
        if key not in self._halves:
            tensor = ir.tensor(_halved(array, str(value.name)), name=f"{value.name}.half")
            half = ir.Value(name=tensor.name, shape=tensor.shape, const_value=tensor)
            half.type = ir.TensorType(ir.DataType.FLOAT16)
            self._graph.register_initializer(half)
            self._halves[key] = half
            self._narrow.add(half)
            self._constant.add(half)
        assert np.shape(array) == tuple(self._halves[key].shape or ())
        return self._halves[key]

    def _cast(self, value: ir.Value, to: str, node: ir.Node | None) -> ir.Value:
        import onnx_ir as ir

        if value not in self._casts:
            cast = ir.node("Cast", [value], {"to": int(ir.DataType[to])})
            output = cast.outputs[0]
            output.shape, output.type = value.shape, ir.TensorType(ir.DataType[to])
            producer = value.producer()
            if producer is not None:
                self._graph.insert_after(producer, cast)
            elif node is not None:
                self._graph.insert_before(node, cast)
            if to == "FLOAT16":
                self._narrow.add(output)
            if value in self._positional:
                self._positional.add(output)
            self._casts[value] = output
        return self._casts[value]

    def widen_outputs(self) -> None:
        """The caller reads float32 outputs; only the cache, if there is one, stays narrow."""
        for index, output in enumerate(self._graph.outputs):
            name = output.name or ""
            if output in self._narrow and not name.startswith("present."):
                output.name = f"{name}.half"
                wide = self._cast(output, "FLOAT", None)
                wide.name = name
                self._graph.outputs[index] = wide


def _halved(array: np.ndarray, name: str) -> np.ndarray:
    import numpy as np

    with np.errstate(over="ignore"):
        half: np.ndarray = array.astype(np.float16)
    if not np.array_equal(np.isfinite(half), np.isfinite(array)):
        largest = float(np.abs(array).max())
        raise ConversionError(
            f"weight {name} reaches {largest:.3g}, float16 ends at 65504: choose fp32, int8 or int4 for this model"
        )
    return half


def _is_float(value: ir.Value) -> bool:
    import onnx_ir as ir

    return bool(value.dtype == ir.DataType.FLOAT)
