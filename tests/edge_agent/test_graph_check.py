"""Graphs that are taken; those that are not are named in tests/edge_agent/hostile_bundles.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_agent import graph_check
from edge_agent.errors import BundleError
from edge_agent.graph_check import check_graph
from edge_agent.manifest import Graph


def check(path: Path) -> None:
    files = {f"model/{one.name}": one.stat().st_size for one in path.parent.iterdir() if one.is_file()}
    check_graph(path, f"model/{path.name}", files)


def write(path: Path, *tensors: Any) -> Path:
    graph = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "g", [], [], list(tensors))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("external", [None, "decoder.data"])
def test_a_whole_graph_is_taken(external: str | None, make_graph: Callable[..., Graph], tmp_path: Path) -> None:
    """With its weights inside or beside it."""
    make_graph(tmp_path / "decoder.onnx", external=external)
    check(tmp_path / "decoder.onnx")


@pytest.mark.parametrize(
    "kind",
    [
        np.float32, np.float64, np.float16, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64,
        np.uint64, np.bool_,
    ],
)  # fmt: skip
@pytest.mark.parametrize("raw", [True, False])
def test_tensors_are_taken_as_onnx_writes_them(kind: Any, raw: bool, tmp_path: Path) -> None:
    """Every type of number, as bytes and in the field that ONNX has for it."""
    array = np.arange(6).reshape(2, 3).astype(kind)
    one = numpy_helper.from_array(array, "a")
    if not raw:
        one = helper.make_tensor("a", one.data_type, (2, 3), array.reshape(-1).tolist())
    check(write(tmp_path / "g.onnx", one))


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT8E4M3FN, TensorProto.BFLOAT16])
def test_small_types_are_taken(kind: int, tmp_path: Path) -> None:
    """Of which two may share a byte."""
    check(write(tmp_path / "g.onnx", helper.make_tensor("a", kind, (3,), [1, 2, 3])))


def test_a_tensor_of_no_elements_is_taken(tmp_path: Path) -> None:
    """It has no bytes, and needs none."""
    check(write(tmp_path / "g.onnx", numpy_helper.from_array(np.zeros((0, 4), np.float32), "a")))


def test_every_field_that_is_known_is_onnxs_own() -> None:
    """Names and numbers are those of onnx.proto, and lists are lists there."""
    for table, message in (
        (graph_check._MODEL, onnx.ModelProto), (graph_check._GRAPH, onnx.GraphProto),
        (graph_check._NODE, onnx.NodeProto), (graph_check._ATTRIBUTE, onnx.AttributeProto),
        (graph_check._TENSOR, onnx.TensorProto), (graph_check._VALUE_INFO, onnx.ValueInfoProto),
        (graph_check._TYPE, onnx.TypeProto), (graph_check._TENSOR_TYPE, onnx.TypeProto.Tensor),
        (graph_check._SHAPE, onnx.TensorShapeProto), (graph_check._DIMENSION, onnx.TensorShapeProto.Dimension),
        (graph_check._PAIR, onnx.StringStringEntryProto), (graph_check._OPSET, onnx.OperatorSetIdProto),
    ):  # fmt: skip
        theirs = message.DESCRIPTOR.fields_by_number
        assert {number: field.name for number, field in table.items()} == {
            number: theirs[number].name for number in table
        }
        for number, field in table.items():
            assert field.repeated == hasattr(getattr(message(), theirs[number].name), "extend"), field.name


def test_a_graph_that_is_gone_is_one_line(tmp_path: Path) -> None:
    """A file that cannot be read is no crash."""
    with pytest.raises(BundleError, match="cannot be read"):
        check_graph(tmp_path / "none.onnx", "model/none.onnx", {})
