"""Writing a graph: one data file, shared tensors once, the same bytes every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from exporter.graph_file import write_graph


def graph_of(arrays: dict[str, np.ndarray]) -> object:
    import onnx_ir as ir

    values = []
    for name, array in arrays.items():
        tensor = ir.tensor(array, name=name)
        values.append(ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor))
    node = ir.node("Sum", values)
    node.metadata_props["where"] = "a path of this machine"
    graph = ir.Graph([], node.outputs, nodes=[node], initializers=values, opset_imports={"": 21})
    return ir.Model(graph, ir_version=10)


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    """Contiguous, transposed and small tensors are read back unchanged."""
    import onnx_ir as ir

    draw = np.random.default_rng(0)
    arrays = {
        "plain": draw.standard_normal((40, 50)).astype(np.float32),
        "turned": draw.standard_normal((50, 40)).astype(np.float32).T,
        "small": np.arange(3),
    }
    size = write_graph(graph_of(arrays), tmp_path / "g.onnx")  # type: ignore[arg-type]
    read = ir.load(tmp_path / "g.onnx").graph.initializers
    for name, array in arrays.items():
        assert np.array_equal(read[name].const_value.numpy(), array)  # type: ignore[union-attr]
    assert size == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_views_of_one_array_are_stored_once(tmp_path: Path) -> None:
    """Two shapes of the same memory take its bytes once; a copy takes its own."""
    base = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    write_graph(graph_of({"a": base, "b": base.reshape(-1)}), tmp_path / "tied.onnx")  # type: ignore[arg-type]
    write_graph(graph_of({"a": base, "b": base.copy()}), tmp_path / "apart.onnx")  # type: ignore[arg-type]
    assert (tmp_path / "tied.onnx.data").stat().st_size == base.nbytes
    assert (tmp_path / "apart.onnx.data").stat().st_size == 2 * base.nbytes


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    """Nothing of the machine or the run gets into the files."""
    array = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_graph(graph_of({"a": array}), tmp_path / folder / "g.onnx")  # type: ignore[arg-type]
    for name in ("g.onnx", "g.onnx.data"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert b"machine" not in (tmp_path / "one" / "g.onnx").read_bytes()
