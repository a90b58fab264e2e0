"""Reading what an ONNX file holds without the onnx package, checked against that package."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge_agent.errors import BundleError
from edge_agent.manifest import Graph
from edge_agent.onnx_file import read_onnx


def write(path: Path, nodes: list[Any], weights: list[Any]) -> Path:
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    path.write_bytes(helper.make_model(helper.make_graph(nodes, "g", [], [output], weights)).SerializeToString())
    return path


def external(name: str, dims: list[int], offset: int, location: str = "w.data") -> Any:
    tensor = TensorProto(name=name, data_type=TensorProto.UINT8, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(offset))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def test_it_sees_what_onnx_sees(tiny_graph: tuple[Path, Graph]) -> None:
    """Names, sizes and operators equal those that the onnx package reads."""
    model = onnx.load(str(tiny_graph[0]))
    found = read_onnx(tiny_graph[0])
    assert {weight.name: weight.bytes for weight in found.weights} == {
        weight.name: numpy_helper.to_array(weight).nbytes for weight in model.graph.initializer
    }
    assert [(node.op_type, node.inputs) for node in found.nodes] == [
        (node.op_type, tuple(node.input)) for node in model.graph.node
    ]


def test_a_token_reads_all_but_the_tables_it_looks_up(tiny_graph: tuple[Path, Graph]) -> None:
    """Embedding and rotary tables do not count, everything else does."""
    found = read_onnx(tiny_graph[0])
    sizes = {weight.name: weight.bytes for weight in found.weights}
    assert found.weights_bytes == sum(sizes.values())
    assert found.bytes_per_token == sum(sizes.values()) - sizes["embedding"] - sizes["cos"] - sizes["sin"]


@pytest.mark.parametrize("shared", ["name", "place"])
def test_a_tied_table_is_read_whole_and_counted_once(shared: str, tmp_path: Path) -> None:
    """A table that is both embedding and head counts for each token, under one name or two."""
    head = "rows" if shared == "name" else "blocks"
    weights = [external("rows", [100, 32], 64), external("other", [7], 0)]
    if shared == "place":
        weights.append(external("blocks", [100, 1, 32], 64))
    nodes = [
        helper.make_node("GatherBlockQuantized", ["rows", "ids"], ["x"], domain="com.microsoft"),
        helper.make_node("MatMulNBits", ["x", head, "other"], ["out"], domain="com.microsoft"),
    ]
    found = read_onnx(write(tmp_path / "m.onnx", nodes, weights))
    assert found.weights_bytes == 3207
    assert found.bytes_per_token == 3207


@pytest.mark.parametrize(
    ("kind", "bits"),
    {
        "FLOAT": 32,
        "FLOAT16": 16,
        "BFLOAT16": 16,
        "DOUBLE": 64,
        "FLOAT8E4M3FN": 8,
        "BOOL": 8,
        "UINT16": 16,
        "INT4": 4,
        "UINT4": 4,
        "INT8": 8,
        "UINT8": 8,
        "INT32": 32,
        "INT64": 64,
    }.items(),
)
def test_each_element_type_has_its_size(kind: str, bits: int, tmp_path: Path) -> None:
    """Half bytes are rounded up to whole ones."""
    tensor = TensorProto(name="w", data_type=TensorProto.DataType.Value(kind), dims=[3, 5])
    node = helper.make_node("Identity", ["w"], ["out"])
    assert read_onnx(write(tmp_path / "m.onnx", [node], [tensor])).weights_bytes == (15 * bits + 7) // 8


def test_subgraphs_and_constants_are_read_too(tmp_path: Path) -> None:
    """Weights inside an If branch or a Constant node are weights, and their external files are seen."""
    branch = helper.make_graph(
        [helper.make_node("Identity", ["inner"], ["y"])],
        "branch",
        [],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [4])],
        [external("inner", [4], 0, "../outside")],
    )
    nodes = [
        helper.make_node("Constant", [], ["condition"], value=numpy_helper.from_array(np.ones(1, np.float32), "c")),
        helper.make_node("If", ["condition"], ["out"], then_branch=branch, else_branch=branch),
    ]
    found = read_onnx(write(tmp_path / "m.onnx", nodes, []))
    assert {weight.location for weight in found.weights} == {None, "../outside"}


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(payload: bytes) -> None:
    """Random bytes are read as something or refused with BundleError, and nothing else is raised."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(payload)
        file.flush()
        try:
            found = read_onnx(Path(file.name))
        except BundleError as refused:
            said = str(refused)
        else:
            said = f"{file.name} was read"
            assert 0 <= found.bytes_per_token <= found.weights_bytes
        assert said.startswith(file.name)
        assert "\n" not in said


def test_cut_files_are_refused_or_read_without_harm(tiny_graph: tuple[Path, Graph], tmp_path: Path) -> None:
    """A graph cut anywhere in its first fields is refused."""
    payload = tiny_graph[0].read_bytes()
    for size in (1, 10, 100, len(payload) // 2, len(payload) - 1):
        (tmp_path / "cut.onnx").write_bytes(payload[:size])
        with pytest.raises(BundleError, match=r"cut\.onnx"):
            read_onnx(tmp_path / "cut.onnx")


def test_a_missing_file_is_refused(tmp_path: Path, make_graph: Callable[..., Graph]) -> None:
    """One line says which file."""
    with pytest.raises(BundleError, match=r"none\.onnx cannot be read"):
        read_onnx(tmp_path / "none.onnx")
