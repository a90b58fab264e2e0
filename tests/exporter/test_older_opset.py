"""A graph in an older opset gives what it gave; what the older one cannot say is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporter.errors import ConversionError
from exporter.older_opset import lower_opset

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def graph(op_type: str, *inputs: Any, opset: int = 18, kind: int = TensorProto.FLOAT, **attributes: Any) -> ir.Model:
    """One node over `x` and constants, with as many `outputs`."""
    outputs = [f"y{number}" for number in range(attributes.pop("outputs", 1))]
    constants = [numpy_helper.from_array(np.asarray(value), f"c{number}") for number, value in enumerate(inputs)]
    nodes = [helper.make_node(op_type, ["x", *(one.name for one in constants)], outputs, "node", **attributes)]
    made = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", kind, X.shape)],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs], constants,
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def run(model: ir.Model) -> list[np.ndarray]:
    given: list[np.ndarray] = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, {"x": X})
    return given


@pytest.mark.parametrize(
    "make",
    [
        lambda: graph("ReduceMean", np.array([-1]), keepdims=1),
        lambda: graph("ReduceL2", np.array([1, 2]), keepdims=0, noop_with_empty_axes=0),
        lambda: graph("ReduceMax", keepdims=1),
        lambda: graph("ReduceSum", np.array([1]), keepdims=0),
        lambda: graph("Split", axis=2, num_outputs=2, outputs=2),
        lambda: graph("Split", np.array([1, 3]), axis=2, outputs=2),
        lambda: graph("Cast", to=TensorProto.FLOAT, saturate=1, opset=19),
    ],
)
def test_it_gives_what_it_gave(make: Any) -> None:
    """Checked by ONNX itself, and run."""
    before, model = run(make()), make()
    lower_opset(model, 17)
    proto = ir.to_proto(model)
    assert proto.opset_import[0].version == 17
    onnx.checker.check_model(proto, full_check=True)
    for one, other in zip(before, run(model), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: graph("Split", axis=1, num_outputs=2, outputs=2), r"Split \(node\): parts that may differ"),
        (lambda: graph("Gelu", opset=20), r"Gelu \(node\) came after opset 17"),
        (lambda: graph("ReduceMean", np.array([-1]), noop_with_empty_axes=1), "attribute noop_with_empty_axes"),
        (
            lambda: graph("DequantizeLinear", np.float16(1), opset=19, kind=TensorProto.INT8),
            "takes x_scale of FLOAT16 after opset 17 only",
        ),
    ],
)
def test_what_it_cannot_say_is_refused(make: Any, named: str) -> None:
    """By operator and node, with what came later."""
    with pytest.raises(ConversionError, match=named):
        lower_opset(make(), 17)
