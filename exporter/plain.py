"""How is a graph of dialect `onnx` written without the operators that older TensorRT parsers lack?

`lower` replaces, in place, `Attention`, `RotaryEmbedding`, `TensorScatter` and `RMSNormalization` by MatMul, Softmax
and element-wise operators of opset 19, which onnx-tensorrt takes from TensorRT 10.0 on (docs/operators.md of its 10.1
branch: opsets 9 to 20). What is computed stays the same, in float32 where the replaced operators compute in it.

- A cache is written by choosing, for each of its positions, the old entry or the step's: ScatterND would copy it too.
- Query heads that share a key head become rows of one matrix, so that keys and values are never repeated.

Does not know where the graph came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from exporter.errors import ConversionError

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

OPSET: Final = 19
_HIDDEN: Final = -6e4  # added to scores that a token must not see; float16 holds it, should a builder narrow it


def lower(model: ir.Model, *, whole: bool = True) -> None:
    """Lower all nodes of `model`, or only those `Attention` nodes that cap their scores where not `whole`.

    TensorRT refuses these ("Setting softcap is not supported in TensorRT Attention", TensorRT-RTX 1.7).
    Raises ConversionError for a node that has no plain form.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

    graph = model.graph
    writer = _Writer(graph)
    lowered = {
        "Attention": writer.attention,
        "RotaryEmbedding": writer.rotary,
        "TensorScatter": writer.scatter,
        "RMSNormalization": writer.rms_norm,
    }
    for node in list(graph):
        if node.op_type in lowered and (whole or _attribute(node, "softcap", 0.0)):
            output, source = lowered[node.op_type](node), node.outputs[0]
            graph.insert_before(node, writer.taken())
            output.shape, output.type = source.shape, source.type
            source.replace_all_uses_with(output, replace_graph_outputs=True)
            output.name, source.name = source.name, f"{source.name}.lowered"
    RemoveUnusedNodesPass()(model)
    if whole:
        model.opset_imports[""] = OPSET
    ShapeInferencePass()(model)


class _Writer:
    """Writes the nodes that stand for one node; what several nodes share is written once."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._nodes: list[ir.Node] = []
        self._shared: dict[Any, Any] = {}

    def taken(self) -> list[ir.Node]:
        """The nodes written since the last call, in order."""
        nodes, self._nodes = self._nodes, []
        return nodes

    def rms_norm(self, node: ir.Node) -> ir.Value:
        """x / sqrt(mean(x^2) + epsilon) in float32, times the scale in x's own type."""
        x, scale = _inputs(node, 2)
        if _attribute(node, "axis", -1) != -1:
            raise ConversionError(f"{node.name} normalizes over axis {_attribute(node, 'axis', -1)}: only the last can")
        wide = self._cast(x, _float32())
        mean = self._op("ReduceMean", [self._op("Mul", [wide, wide]), self._ints([-1])], {"keepdims": 1})
        root = self._op("Sqrt", [self._op("Add", [mean, self._floats(_attribute(node, "epsilon", 1e-5))])])
        return self._op("Mul", [self._cast(self._op("Div", [wide, root]), x.dtype), scale])

    def rotary(self, node: ir.Node) -> ir.Value:
        """Rotate the two halves of each head, (batch, heads, sequence, head_dim)."""
        x, cos, sin = _inputs(node, 3)
        if len(node.inputs) != 3 or _attribute(node, "interleaved", 0) or x.shape is None:
            raise ConversionError(f"{node.name} rotates in a way that has no plain form here")
        half = int(x.shape[3]) // 2
        cos, sin = self._once(("angles", cos, sin), lambda: self._over_heads(cos, sin))
        first, second = self._op("Split", [x, self._ints([half, half])], {"axis": 3}, outputs=2)
        real = self._op("Sub", [self._op("Mul", [first, cos]), self._op("Mul", [second, sin])])
        imaginary = self._op("Add", [self._op("Mul", [first, sin]), self._op("Mul", [second, cos])])
        return self._op("Concat", [real, imaginary], {"axis": 3})

    def _over_heads(self, *angles: ir.Value) -> tuple[ir.Value, ...]:
        return tuple(self._op("Unsqueeze", [angle, self._ints([1])]) for angle in angles)

    def scatter(self, node: ir.Node) -> ir.Value:
        """Positions from `first` on take the step's entries, the others keep what they hold."""
        past, new, first = _inputs(node, 3)
        written, index = self._once(("slots", first), lambda: self._slots(past, new, first))
        rows = self._op("Transpose", [new], {"perm": [0, 2, 1, 3]})
        chosen = self._op("GatherND", [rows, index], {"batch_dims": 1})
        return self._op("Where", [written, self._op("Transpose", [chosen], {"perm": [0, 2, 1, 3]}), past])

    def _slots(self, past: ir.Value, new: ir.Value, first: ir.Value) -> tuple[ir.Value, ir.Value]:
        """bool (batch, 1, positions, 1): is it written; int64 (batch, positions, 1): by which token of the step."""
        zero, one = self._scalar(0), self._scalar(1)
        positions, sequence = (self._op("Squeeze", [self._size(v)]) for v in (past, new))
        step = self._op("Sub", [
            self._op("Range", [zero, positions, one]), self._op("Unsqueeze", [first, self._ints([1])])
        ])  # fmt: skip
        last = self._op("Sub", [sequence, one])
        inside = self._op("And", [
            self._op("GreaterOrEqual", [step, zero]), self._op("LessOrEqual", [step, last])
        ])  # fmt: skip
        nearest = self._op("Max", [self._op("Min", [step, last]), zero])
        return self._op("Unsqueeze", [inside, self._ints([1, 3])]), self._op("Unsqueeze", [nearest, self._ints([2])])

    def _size(self, cache: ir.Value) -> ir.Value:
        return self._op("Shape", [cache], {"start": 2, "end": 3})

    def attention(self, node: ir.Node) -> ir.Value:
        """softmax(softcap(scale * q @ k.T) + bias) @ v, heads of one group as rows of one matrix."""
        query, key, value, mask = _inputs(node, 4)
        assert query.shape is not None
        assert key.shape is not None
        heads, kv_heads, head_dim = int(query.shape[1]), int(key.shape[1]), int(query.shape[3])
        scale = _attribute(node, "scale", head_dim**-0.5)
        scaled = self._op("Mul", [query, self._floats(scale, query.dtype)])
        grouped = self._op("Reshape", [scaled, self._ints([0, kv_heads, -1, head_dim])])
        scores = self._op("MatMul", [grouped, self._op("Transpose", [key], {"perm": [0, 1, 3, 2]})])
        scores = self._cast(scores, _float32())
        if softcap := _attribute(node, "softcap", 0.0):
            cap = self._floats(softcap)
            scores = self._op("Mul", [self._op("Tanh", [self._op("Div", [scores, cap])]), cap])
        bias = self._once(("bias", mask, heads // kv_heads), lambda: self._bias(mask, heads // kv_heads))
        weights = self._op("Softmax", [self._op("Add", [scores, bias])], {"axis": -1})
        mixed = self._op("MatMul", [self._cast(weights, query.dtype), value])
        return self._op("Reshape", [mixed, self._ints([0, heads, -1, head_dim])])

    def _bias(self, mask: ir.Value, groups: int) -> ir.Value:
        """float32 (batch, 1, groups * sequence, positions): 0 where a token may look, else very little."""
        bias = self._op("Where", [mask, self._floats(0.0), self._floats(_HIDDEN)])
        return self._op("Concat", [bias] * groups, {"axis": 2}) if groups > 1 else bias

    def _once(self, key: Any, write: Any) -> Any:
        if key not in self._shared:
            self._shared[key] = write()
        return self._shared[key]

    def _cast(self, value: ir.Value, to: ir.DataType | None) -> ir.Value:
        if value.dtype == to or to is None:
            return value
        return self._op("Cast", [value], {"to": int(to)}, dtype=to)

    def _op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        attributes: dict[str, Any] | None = None,
        *,
        outputs: int = 1,
        dtype: ir.DataType | None = None,
    ) -> Any:
        """Write a node; its outputs (one, or a tuple) have `dtype`, else the type that its operator gives."""
        import onnx_ir as ir

        node = ir.node(op_type, inputs, attributes or {}, num_outputs=outputs)
        given = {"Shape": ir.DataType.INT64, "Where": inputs[-1].dtype}
        given |= dict.fromkeys(("And", "GreaterOrEqual", "LessOrEqual"), ir.DataType.BOOL)
        kind = dtype or given.get(op_type, inputs[0].dtype)
        for value in node.outputs:
            value.type = ir.TensorType(kind) if kind is not None else None
        self._nodes.append(node)
        return node.outputs[0] if outputs == 1 else tuple(node.outputs)

    def _ints(self, values: list[int]) -> ir.Value:
        import numpy as np

        return self._constant(np.array(values, np.int64))

    def _scalar(self, value: int) -> ir.Value:
        import numpy as np

        return self._constant(np.array(value, np.int64))

    def _floats(self, value: float, dtype: ir.DataType | None = None) -> ir.Value:
        import numpy as np

        return self._constant(np.array(value, np.float32 if dtype is None else dtype.numpy()))

    def _constant(self, array: np.ndarray) -> ir.Value:
        import onnx_ir as ir

        name = f"plain.{array.dtype}.{array.ndim}.{'_'.join(map(str, array.reshape(-1).tolist()))}"
        if name not in self._graph.initializers:
            tensor = ir.tensor(array, name=name)
            value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
            self._graph.register_initializer(value)
        return self._graph.initializers[name]


def _float32() -> ir.DataType:
    import onnx_ir as ir

    return ir.DataType.FLOAT


def _inputs(node: ir.Node, count: int) -> list[ir.Value]:
    values = [value for value in node.inputs[:count] if value is not None]
    if len(values) != count:
        raise ConversionError(f"{node.name} ({node.op_type}) has {len(values)} inputs, {count} are needed")
    return values


def _attribute(node: ir.Node, name: str, default: Any) -> Any:
    return node.attributes[name].value if name in node.attributes else default
