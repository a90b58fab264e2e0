"""Engines are built on the device by the recipe, with the real TensorRT-RTX builder, which needs no GPU."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from edge_agent.bundle import Bundle, open_bundle
from edge_agent.errors import RuntimeUnavailable
from edge_agent.manifest import Graph
from edge_agent.runtime import engine_build, engine_process
from edge_agent.runtime.engine_build import NICENESS, Build, build_of, key_of, memory_refusal, recipe_of
from edge_agent.runtime.gpu import Gpu
from exporter.engine import engine_runtimes
from exporter.engine_header import read_engine_header
from tests.edge_agent.runtime.engine_bundles import engine_bundle, entry, recipe
from tests.edge_agent.runtime.stand_ins import HostDriver
from tests.exporter.test_engine import SHAPES, matmul_file

needs_wheel = pytest.mark.skipif(not engine_runtimes(), reason="TensorRT-RTX is not installed (x86-64 Linux only)")
MATMUL = Graph(path="", dialect="onnx", inputs=("x",), outputs=("y",))


@pytest.fixture
def bundle(make_bundle: Callable[..., Path], tiny_graph: tuple[Path, Graph], tmp_path: Path) -> Bundle:
    """Its engine is one matrix product, for an RTX 4060 or whatever GPU the test has."""
    product = matmul_file(tmp_path / "matmul.onnx")
    made = recipe("tensorrt-rtx", SHAPES)
    return open_bundle(engine_bundle(make_bundle, product, MATMUL, tiny_graph[1], made, profile="desktop-rtx-4060"))


def build(bundle: Bundle, folder: Path, **fields: Any) -> Build:
    made = msgspec.structs.replace(recipe_of(bundle.manifest.engines[0]), **fields)
    gpu = Gpu(HostDriver(capability=(8, 9)))
    return build_of(bundle, entry(made), gpu, folder)


@needs_wheel
def test_an_engine_is_built_once(bundle: Bundle, tmp_path: Path) -> None:
    """For the capability of the GPU that is here; it is found again, and one that was damaged is built again."""
    folder = tmp_path / "engines"
    first = build(bundle, folder)
    assert first.found() is None
    engine = first.run()
    assert read_engine_header(engine).compute_capabilities == ("8.9",)
    assert first.progress == 1.0
    assert build(bundle, folder).found() == engine
    content = engine.read_bytes()
    engine.write_bytes(content[:-1])
    assert build(bundle, folder).found() is None
    assert build(bundle, folder).run().read_bytes() == content


@needs_wheel
def test_the_builder_gives_way(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process has a lower priority than the node."""
    seen: list[int] = []

    class Watched(engine_process.BuildProcess):
        def events(self) -> Any:
            for event in super().events():
                seen.append(os.getpriority(os.PRIO_PROCESS, self._process.pid))
                yield event

    monkeypatch.setattr(engine_build, "BuildProcess", Watched)
    build(bundle, tmp_path / "engines").run()
    assert min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS) in seen


@needs_wheel
def test_a_build_can_be_stopped(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it works, and before it begins; nothing is left."""
    folder = tmp_path / "engines"
    stopped = build(bundle, folder)

    class Stopping(engine_process.BuildProcess):
        def events(self) -> Any:
            for event in super().events():
                thread = threading.Thread(target=stopped.stop)
                thread.start()
                thread.join()
                yield event

    monkeypatch.setattr(engine_build, "BuildProcess", Stopping)
    with pytest.raises(RuntimeUnavailable, match="its engine cannot be built: the builder ended"):
        stopped.run()
    with pytest.raises(RuntimeUnavailable, match="this node stops"):
        stopped.run()
    assert list(folder.iterdir()) == []


@needs_wheel
def test_what_the_parser_refuses_is_said(bundle: Bundle, tmp_path: Path) -> None:
    """The tiny decoder has ONNX Runtime's operators, which TensorRT does not know."""
    with pytest.raises(RuntimeUnavailable, match=r"the parser refuses .*GroupQueryAttention"):
        build(bundle, tmp_path / "engines", graph="model/decoder.onnx").run()


def test_a_library_that_crashes_is_one_line(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder's process may die; the node only notes it."""
    folder = tmp_path / "first"
    folder.mkdir()
    crash = "import os, sys\n__version__ = '10.3'\nprint('last words', file=sys.stderr)\nos.abort()\n"
    (folder / "tensorrt_rtx.py").write_text(crash)
    monkeypatch.setattr(engine_build, "library", lambda runtime: SimpleNamespace(__version__="1.7"))
    monkeypatch.setattr(engine_process, "_ROOT", folder)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
    with pytest.raises(RuntimeUnavailable, match="the builder ended with -6: last words"):
        build(bundle, tmp_path / "engines").run()


def test_memory_is_asked_for_before(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With both figures; a system that does not say is tried."""
    made = recipe("tensorrt-rtx", SHAPES, build_bytes=1_080_000_000)
    assert memory_refusal(made, None) is None
    assert memory_refusal(made, 1_080_000_000) is None
    monkeypatch.setattr(engine_build, "available_bytes", lambda: 700_000_000)
    monkeypatch.setattr(engine_build, "library", lambda runtime: SimpleNamespace(__version__="1.7"))
    with pytest.raises(RuntimeUnavailable, match="needs 1080 MB, about 4 times its weights, and 700 MB are free"):
        build(bundle, tmp_path / "engines", build_bytes=1_080_000_000).run()
    assert not (tmp_path / "engines").exists()


def test_a_recipe_for_other_software_is_not_followed(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version stands in the refusal; so does an entry without a recipe, or with a broken one."""
    monkeypatch.setattr(engine_build, "library", lambda runtime: SimpleNamespace(__version__="10.2.0"))
    with pytest.raises(RuntimeUnavailable, match=r"for tensorrt-rtx 1 to below 3, here is 10\.2\.0"):
        build(bundle, tmp_path, tensorrt_below="3")
    made = entry(recipe("tensorrt-rtx", SHAPES))
    with pytest.raises(RuntimeUnavailable, match="has no recipe"):
        recipe_of(msgspec.structs.replace(made, recipe=None))
    with pytest.raises(RuntimeUnavailable, match="its recipe cannot be read"):
        recipe_of(msgspec.structs.replace(made, recipe={"graph": 1}))


def test_the_key_is_all_that_the_engine_depends_on(bundle: Bundle) -> None:
    """GPU and CUDA from the driver, the driver from the kernel, hashes from the manifest."""
    gpu = Gpu(HostDriver(name="RTX 4060", capability=(8, 9), cuda=13000))
    key = key_of(bundle, bundle.manifest.engines[0], gpu, "1.7.1", lambda: "580.65")
    assert (key.gpu, key.compute_capability, key.cuda) == ("RTX 4060", "8.9", "13.0")
    assert (key.driver, key.tensorrt) == ("580.65", "tensorrt-rtx 1.7.1")
    other = entry(recipe("tensorrt-rtx", SHAPES, workspace_bytes=1))
    changed = key_of(bundle, other, gpu, "1.7.1", lambda: "580.65")
    assert changed.recipe_sha256 != key.recipe_sha256
    assert changed.graph_sha256 == key.graph_sha256


def test_where_nothing_can_be_written_that_is_the_reason(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache folder that is a file, say."""
    monkeypatch.setattr(engine_build, "library", lambda runtime: SimpleNamespace(__version__="1.7"))
    (tmp_path / "file").touch()
    with pytest.raises(RuntimeUnavailable, match=r"no engine can be kept in .*file"):
        build(bundle, tmp_path / "file").run()
