"""Engines, built by the real TensorRT-RTX builder, which needs no GPU."""

from __future__ import annotations

import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import device_profiles
from edge_agent.manifest import CacheLayout, Graph
from exporter import engine
from exporter.engine import build_engine, builds_engine, engine_runtimes, parse_graph
from exporter.engine_header import CAPABILITIES, read_engine_header
from exporter.errors import ConversionError, EngineError, OutputError
from exporter.operators import unsupported
from exporter.shapes import ShapeProfile, ShapeRange, ShapeRanges, default_shapes, input_dimensions

ROOT = Path(__file__).resolve().parent.parent.parent
MINILM = ROOT / "models" / "all-MiniLM-L6-v2"
ROWS = ShapeProfile(name="rows", inputs={"x": ShapeRange(minimum=(1, 64), optimum=(4, 64), maximum=(16, 64))})
SHAPES = ShapeRanges(profiles=(ROWS,))

needs_wheel = pytest.mark.skipif(not engine_runtimes(), reason="TensorRT-RTX is not installed (x86-64 Linux only)")


def graph_file(path: Path, nodes: Sequence[Any], weights: Sequence[Any], opset: int = 21) -> Path:
    """A graph from `x` (rows, 64) to `y`, both fp16."""
    import onnx
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["rows", 64])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT16, None)
    domains = {node.domain for node in nodes if node.domain}
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return path


def matmul_file(path: Path) -> Path:
    """One matrix product in fp16."""
    from onnx import helper, numpy_helper

    weight = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float16)
    return graph_file(
        path, [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")], [numpy_helper.from_array(weight, "w")]
    )


def quantized_file(path: Path, element: int, axis: int, block: int, zero_point: int | None = None) -> Path:
    """A matrix product in fp16 whose weight is quantized: in blocks along `axis`, or for each index of it."""
    from onnx import helper, numpy_helper

    shape = (64, 128)
    scales = tuple(size // block if index == axis else size for index, size in enumerate(shape)) if block else (128,)
    weights = [
        helper.make_tensor("q", element, shape, np.random.default_rng(0).integers(-7, 8, shape).ravel().tolist()),
        numpy_helper.from_array(np.full(scales, 0.01, np.float16), "s"),
    ]
    if zero_point is not None:
        weights.append(helper.make_tensor("z", element, scales, [zero_point] * int(np.prod(scales))))
    attributes = {"axis": axis, "block_size": block} if block else {"axis": axis}
    nodes = [
        helper.make_node("DequantizeLinear", [one.name for one in weights], ["w"], name="weight", **attributes),
        helper.make_node("MatMul", ["x", "w"], ["y"], name="product"),
    ]
    return graph_file(path, nodes, weights)


@needs_wheel
def test_engine_is_built_without_a_gpu_and_reads_back_by_its_header(tmp_path: Path) -> None:
    """An engine names its capability, progress ends at the whole, and the same graph gives the same bytes."""
    graph = matmul_file(tmp_path / "graph.onnx")
    heard: list[float] = []
    built = build_engine(
        graph, tmp_path / "a.engine", compute_capability="8.6", shapes=SHAPES, on_progress=heard.append
    )
    header = read_engine_header(built.path)
    assert header.compute_capabilities == ("8.6",)
    assert header.version == built.version
    assert header.bytes == built.bytes == built.path.stat().st_size
    assert built.peak_rss_bytes > built.bytes
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    again = build_engine(graph, tmp_path / "b.engine", compute_capability="8.6", shapes=SHAPES)
    assert again.path.read_bytes() == built.path.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.engine", "b.engine", "graph.onnx"]


@needs_wheel
@pytest.mark.slow
def test_every_capability_is_a_bit_of_the_header(tmp_path: Path) -> None:
    """The header's bits are what the real builder sets for each capability that no other test here builds for."""
    graph = matmul_file(tmp_path / "graph.onnx")
    built_elsewhere = {"8.6", "8.9", "12.0"}
    for capability in set(CAPABILITIES) - built_elsewhere:
        built = build_engine(graph, tmp_path / "a.engine", compute_capability=capability, shapes=SHAPES)
        assert read_engine_header(built.path).compute_capabilities == (capability,)


@needs_wheel
def test_weights_of_eight_and_four_bits_stay_small(tmp_path: Path) -> None:
    """Symmetric int8 for each channel and int4 in blocks along K are taken, and the engine holds them packed."""
    from onnx import TensorProto

    weights_bytes = {}
    for name, element, axis, block in (("int8", TensorProto.INT8, 1, 0), ("int4", TensorProto.INT4, 0, 32)):
        graph = quantized_file(tmp_path / f"{name}.onnx", element, axis, block)
        path = tmp_path / f"{name}.engine"
        weights_bytes[name] = read_engine_header(
            build_engine(graph, path, compute_capability="8.9", shapes=SHAPES).path
        ).weights_bytes
    values = 64 * 128
    assert values <= weights_bytes["int8"] < 1.5 * values
    assert values / 2 <= weights_bytes["int4"] < values


def decoder_file(path: Path) -> Path:
    """One layer of a decoder in fp16 with the operators of dialect `onnx`: caches of 64 positions, two heads of 16."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)
    sizes = {"embedding": (50, 32), "norm": (32,), "wq": (32, 32), "wk": (32, 32), "wv": (32, 32), "wo": (32, 50)}
    weights = [numpy_helper.from_array(draw.normal(size=size).astype(np.float16), one) for one, size in sizes.items()]
    weights.append(numpy_helper.from_array(np.array([0, -1, 2, 16]), "heads"))
    weights.append(numpy_helper.from_array(np.array([0, -1, 32]), "flat"))
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["hidden"]),
        helper.make_node("RMSNormalization", ["hidden", "norm"], ["normed"]),
    ]
    for one in "qkv":
        nodes += [
            helper.make_node("MatMul", ["normed", f"w{one}"], [f"{one}_flat"]),
            helper.make_node("Reshape", [f"{one}_flat", "heads"], [f"{one}_heads"]),
            helper.make_node("Transpose", [f"{one}_heads"], [one], perm=[0, 2, 1, 3]),
        ]
    caches = {"k": "key", "v": "value"}
    nodes += [
        helper.make_node("TensorScatter", [f"past_key_values.0.{name}", one, "start"], [f"present.0.{name}"], axis=-2)
        for one, name in caches.items()
    ]
    nodes += [
        helper.make_node("Attention", ["q", "present.0.key", "present.0.value", "mask"], ["mixed"], name="attention"),
        helper.make_node("Transpose", ["mixed"], ["mixed_heads"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["mixed_heads", "flat"], ["mixed_flat"]),
        helper.make_node("MatMul", ["mixed_flat", "wo"], ["logits"]),
    ]
    cache = ["batch", 2, 64, 16]
    inputs = {
        "input_ids": (TensorProto.INT64, ["batch", "sequence"]),
        "start": (TensorProto.INT64, ["batch"]),
        "mask": (TensorProto.FLOAT16, ["batch", 1, "sequence", 64]),
        **{f"past_key_values.0.{name}": (TensorProto.FLOAT16, cache) for name in caches.values()},
    }
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT16, ["batch", "sequence", 50])]
    outputs += [
        helper.make_tensor_value_info(f"present.0.{name}", TensorProto.FLOAT16, cache) for name in caches.values()
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(one, *of) for one, of in inputs.items()], outputs, weights
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=10), path)
    return path


@needs_wheel
def test_decoder_of_fused_operators_becomes_an_engine(tmp_path: Path) -> None:
    """Attention over a cache that TensorScatter fills builds, with one profile for any length and with two."""
    path = decoder_file(tmp_path / "decoder.onnx")
    assert unsupported(path, "10.16") == []
    cache = CacheLayout(layers=1, kv_heads=2, head_dim=16, dtype="float16")
    graph = Graph(path="decoder.onnx", dialect="onnx", inputs=("input_ids",), outputs=("logits",), cache=cache)
    for apart, profiles in ((False, ["both"]), (True, ["decode", "prefill"])):
        shapes = default_shapes(graph, input_dimensions(path), context=64, prefill_apart=apart)
        assert [profile.name for profile in shapes.profiles] == profiles
        built = build_engine(path, tmp_path / "a.engine", compute_capability="12.0", shapes=shapes)
        assert read_engine_header(built.path).compute_capabilities == ("12.0",)


@needs_wheel
def test_what_the_parser_refuses_names_node_and_op(tmp_path: Path) -> None:
    """A graph that TensorRT cannot take is one line with the node, its operator and the reason; nothing is written."""
    from onnx import TensorProto, helper

    shifted = quantized_file(tmp_path / "shifted.onnx", TensorProto.INT4, 0, 32, zero_point=3)
    (line,) = parse_graph(shifted)
    assert line.startswith("weight (DequantizeLinear): ")
    assert "zero point is not supported" in line
    foreign = graph_file(
        tmp_path / "foreign.onnx",
        [helper.make_node("Unheard", ["x"], ["y"], name="strange", domain="com.microsoft")],
        [],
    )
    with pytest.raises(ConversionError, match=r"foreign\.onnx: TensorRT-RTX refuses strange \(Unheard\): ") as caught:
        build_engine(foreign, tmp_path / "a.engine", compute_capability="8.6", shapes=SHAPES)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.engine*"))


@needs_wheel
def test_good_graph_has_nothing_refused(tmp_path: Path) -> None:
    """The parser has nothing to say of a graph that it takes."""
    assert parse_graph(matmul_file(tmp_path / "graph.onnx")) == []


@needs_wheel
def test_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    """Bytes that are no ONNX model are refused like a graph, not with a crash."""
    path = tmp_path / "noise.onnx"
    path.write_bytes(b"\x00noise")
    assert len(parse_graph(path)) == 1


@needs_wheel
def test_shapes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """A profile for other inputs, or with another width, ends in one line and leaves no file."""
    graph = matmul_file(tmp_path / "graph.onnx")
    narrow = ShapeProfile(name="rows", inputs={"x": ShapeRange(minimum=(1, 3), optimum=(1, 3), maximum=(1, 3))})
    other = ShapeProfile(name="rows", inputs={"z": ROWS.inputs["x"]})
    for profile in (narrow, other):
        with pytest.raises(EngineError, match=r"graph\.onnx: TensorRT-RTX cannot build it: "):
            build_engine(
                graph, tmp_path / "a.engine", compute_capability="8.6", shapes=ShapeRanges(profiles=(profile,))
            )
    assert [path.name for path in tmp_path.iterdir()] == ["graph.onnx"]


@needs_wheel
def test_folder_that_is_not_there_is_an_output_error(tmp_path: Path) -> None:
    """Where the engine cannot be written, the error says so and what stands in the way."""
    graph = matmul_file(tmp_path / "graph.onnx")
    with pytest.raises(OutputError, match="cannot be written: No such file"):
        build_engine(graph, tmp_path / "none" / "a.engine", compute_capability="8.6", shapes=SHAPES)


@needs_wheel
def test_interrupt_ends_the_build_and_leaves_no_file(tmp_path: Path) -> None:
    """Ctrl-C during a build ends both processes and leaves neither an engine nor a partial file."""
    graph = matmul_file(tmp_path / "graph.onnx")
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from exporter.engine import build_engine\n"
        "from tests.exporter.test_engine import SHAPES\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it\n"
        "build_engine(Path(sys.argv[1]), Path(sys.argv[2]), compute_capability='8.6', shapes=SHAPES,\n"
        "             on_progress=lambda part: os.kill(os.getpid(), signal.SIGINT))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(graph), str(tmp_path / "a.engine")],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["graph.onnx"]


@needs_wheel
def test_crash_of_the_library_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A building process that dies is an error with its last words, not a traceback or a hang."""
    folder = tmp_path / "first"
    folder.mkdir()
    (folder / "tensorrt_rtx.py").write_text("import os, sys\nprint('last words', file=sys.stderr)\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    with pytest.raises(EngineError, match=r"graph\.onnx: TensorRT-RTX ended with -6: last words"):
        parse_graph(matmul_file(tmp_path / "graph.onnx"))


def test_capability_of_a_jetson_is_refused(tmp_path: Path) -> None:
    """TensorRT-RTX has no Jetson target: asking for one is refused before anything starts."""
    with pytest.raises(EngineError, match=r"builds for compute capability 7\.5, .* not for 8\.7"):
        build_engine(tmp_path / "g.onnx", tmp_path / "a.engine", compute_capability="8.7", shapes=SHAPES)


def test_auto_builds_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` builds for desktop GPUs when the wheel is there; `none` never; asking without the wheel is refused."""
    desktop, jetson = device_profiles.load("desktop-rtx-4060"), device_profiles.load("jetson-orin")
    monkeypatch.setattr(engine, "engine_runtimes", lambda: ("tensorrt-rtx",))
    assert builds_engine("auto", desktop)
    assert builds_engine("tensorrt-rtx", desktop)
    assert not builds_engine("none", desktop)
    assert not builds_engine("auto", jetson)
    with pytest.raises(EngineError, match=r"jetson-orin \(compute capability 8\.7\) does not run TensorRT-RTX"):
        builds_engine("tensorrt-rtx", jetson)
    monkeypatch.setattr(engine, "engine_runtimes", lambda: ())
    assert not builds_engine("auto", desktop)
    with pytest.raises(EngineError, match=r"pip install 'edgefleet\[tensorrt\]'"):
        builds_engine("tensorrt-rtx", desktop)


@needs_wheel
@pytest.mark.model
@pytest.mark.slow
def test_minilm_becomes_an_engine(tmp_path: Path) -> None:
    """All of MiniLM builds in fp16 for texts of 1 to 256 tokens, one to eight at once."""
    import torch
    from transformers import AutoModel

    class Encoder(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(MINILM, dtype=torch.float16, attn_implementation="eager").eval()

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    model = Encoder()
    ids = torch.ones((2, 3), dtype=torch.long)
    names = {0: "batch", 1: "sequence"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (ids, ids), tmp_path / "minilm.onnx", dynamo=False, opset_version=17,
            input_names=["input_ids", "attention_mask"], output_names=["hidden"],
            dynamic_axes={"input_ids": names, "attention_mask": names},
        )  # fmt: skip
    graph = Graph(path="minilm.onnx", dialect="plain", inputs=("input_ids", "attention_mask"), outputs=("hidden",))
    shapes = default_shapes(graph, input_dimensions(tmp_path / "minilm.onnx"), context=256, prefill_apart=False)
    built = build_engine(tmp_path / "minilm.onnx", tmp_path / "a.engine", compute_capability="8.9", shapes=shapes)
    header = read_engine_header(built.path)
    assert header.compute_capabilities == ("8.9",)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert 1.9 * parameters < header.weights_bytes < 2.1 * parameters


@needs_wheel
@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_smollm2_becomes_an_engine(smollm2_source: Any, tmp_path: Path) -> None:
    """Its `onnx` graph in fp16 is built for an RTX 4060 and read back by its header; TensorRT 10.16 parses it too."""
    from exporter.convert import convert, describe
    from exporter.graph_file import write_graph

    converted = convert(smollm2_source.model, 1024, "onnx", half=True)
    graph = describe(converted, "onnx")
    path = tmp_path / Path(graph.path).name
    write_graph(converted, path)
    assert unsupported(path, "10.16") == []
    shapes = default_shapes(graph, input_dimensions(path), context=1024, prefill_apart=False)
    built = build_engine(path, tmp_path / "smollm2.engine", compute_capability="8.9", shapes=shapes)
    header = read_engine_header(built.path)
    assert header.compute_capabilities == ("8.9",)
    assert header.bytes == built.path.stat().st_size == built.bytes
    weights_bytes = 2 * smollm2_source.info.parameters
    assert weights_bytes <= header.weights_bytes < 1.2 * weights_bytes
