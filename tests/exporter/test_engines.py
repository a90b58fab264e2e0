"""Which engine, from which graph, and in which precision."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import device_profiles
from device_profiles.jetpack import with_jetpack
from edge_agent.manifest import Accuracy, Graph
from edge_agent.recipe import Recipe
from exporter.candidate import Built
from exporter.convert import convert, describe
from exporter.engine import engine_runtimes
from exporter.engines import engine_for, graphs_of, wanted_dialect
from exporter.errors import EngineError
from exporter.graph_file import write_graph
from exporter.order import Order
from exporter.surrogate import SurrogateDecoder
from tests.exporter.conftest import random_model
from tests.exporter.test_report import ACCURACY

ORDER = Order(model="m", profile="jetson-orin", output=Path("o"))
_folder = tempfile.TemporaryDirectory(prefix="edgefleet-test-engines-")


class Work:
    """Graphs of which those with fewer bits lose too much, as the test says."""

    def __init__(self, *refused: str) -> None:
        self.refused = refused
        self.made: list[str] = []

    def quantized_for_engine(self, half: Built, precision: str) -> Built:
        self.made.append(precision)
        return msgspec.structs.replace(half, precision=precision)

    def verify_surrogate(self, built: Built) -> Accuracy:
        bound = 9.0 if built.precision in self.refused else 0.5
        return msgspec.structs.replace(ACCURACY, drop_bound_points=bound)


@functools.cache
def _converted(dialect: Any) -> tuple[Path, Graph]:
    """A tiny Llama in fp16 on disk, traced once for all tests."""
    model = convert(random_model("Llama"), 64, dialect, half=True)
    graph = describe(model, dialect)
    path = Path(_folder.name) / dialect / graph.path
    path.parent.mkdir(parents=True)
    write_graph(model, path)
    return path.parent, graph


def half(folder: Path, dialect: Any) -> Built:
    """A copy of it that a test may change."""
    source, graph = _converted(dialect)
    path = folder / "engine" / graph.path
    shutil.copytree(source, path.parent)
    written = sum(file.stat().st_size for file in path.parent.iterdir())
    return Built(name="fp16", precision="fp16", directory=folder / "engine", graph=graph, weights_bytes=written,
                 tensors={}, passes=())  # fmt: skip


def winner(folder: Path, half: Built, precision: str) -> Built:
    """A bundle in the making, with an `ort` graph of that precision."""
    (folder / "bundle" / "model").mkdir(parents=True)
    graph = msgspec.structs.replace(half.graph, path="model/decoder.onnx", dialect="ort")
    return msgspec.structs.replace(half, name=precision, precision=precision, directory=folder / "bundle", graph=graph)


def silent(what: str, part: float) -> None:
    """Progress that nobody watches."""


@pytest.mark.parametrize(
    ("profile", "engine", "dialect"),
    [
        ("desktop-cpu", "auto", None),
        ("jetson-orin", "auto", "plain"),
        ("jetson-thor-t5000", "none", None),
        ("jetson-orin", "none", None),
    ],
)
def test_the_dialect_is_what_the_device_parses(profile: str, engine: Any, dialect: str | None) -> None:
    """Plain operators for TensorRT 10.3, no second graph where no engine is wanted or can be had."""
    order = msgspec.structs.replace(ORDER, engine=engine)
    assert wanted_dialect(order, device_profiles.profile.load(profile)) == dialect


def test_an_engine_that_cannot_be_had_is_refused() -> None:
    """--engine tensorrt-rtx for a CPU or a Jetson is no engine."""
    for profile in ("desktop-cpu", "jetson-orin"):
        with pytest.raises(EngineError, match="does not run TensorRT-RTX"):
            wanted_dialect(msgspec.structs.replace(ORDER, engine="tensorrt-rtx"), device_profiles.profile.load(profile))


def test_a_jetson_gets_a_graph_and_a_recipe(tmp_path: Path) -> None:
    """The graph moves into the bundle; the recipe names it, its shapes and what building needs."""
    profile, order = device_profiles.profile.load("jetson-orin"), ORDER
    graph = half(tmp_path, "plain")
    chosen = winner(tmp_path, graph, "fp16")
    made = engine_for(order, profile, Work(), graph, chosen, 64, silent)
    assert (made.engine.runtime, made.engine.precision, made.engine.path) == ("tensorrt", "fp16", None)
    assert made.engine.surrogate is not None
    assert made.engine.recipe is not None
    assert made.engine.recipe["graph"] == made.engine.graph == "model/decoder-plain.onnx"
    assert made.engine.recipe["build_bytes"] > 0
    assert (chosen.directory / made.engine.graph).exists()
    assert [one.dialect for one in graphs_of(chosen, made)] == ["ort", "plain"]


@pytest.mark.parametrize("jetpack", ["5.1", "6.0"])
def test_an_older_jetpack_gets_an_older_opset(jetpack: str, tmp_path: Path) -> None:
    """TensorRT 8 reads opset 17: the graph is said in it, and gives what it gave."""
    import onnx

    profile = with_jetpack(device_profiles.profile.load("jetson-orin"), jetpack)
    graph = half(tmp_path, "plain")
    before = SurrogateDecoder(graph.path, graph.graph, context=16).logits([1, 2, 3])
    made = engine_for(ORDER, profile, Work(), graph, winner(tmp_path, graph, "fp16"), 64, silent)
    assert onnx.load(made.built.path, load_external_data=False).opset_import[0].version == 17
    onnx.checker.check_model(str(made.built.path), full_check=True)
    after = SurrogateDecoder(made.built.path, made.built.graph, context=16).logits([1, 2, 3])
    np.testing.assert_allclose(after, before, atol=1e-3)
    assert made.engine.recipe is not None
    assert made.engine.recipe["tensorrt_below"] == "9"


def test_the_fewest_bits_inside_the_budget_are_taken(tmp_path: Path) -> None:
    """From the chosen candidate's bits on; what loses too much is passed over, and if all does that is said."""
    profile = device_profiles.profile.load("jetson-orin")
    graph = half(tmp_path, "plain")
    work = Work("int4", "int8", "fp16")
    with pytest.raises(EngineError, match=r"no engine for jetson-orin is inside the budget .*fp16: drop of at most 9"):
        engine_for(ORDER, profile, work, graph, winner(tmp_path / "a", graph, "int4"), 64, silent)
    assert work.made[-1] == "int8"
    made = engine_for(ORDER, profile, Work(), graph, winner(tmp_path / "b", graph, "int8"), 64, silent)
    assert made.engine.precision == "int8"


@pytest.mark.slow
@pytest.mark.skipif(not engine_runtimes(), reason="the TensorRT-RTX wheel is for x86-64 Linux")
def test_a_desktop_gpu_gets_an_engine(tmp_path: Path) -> None:
    """Built here for its compute capability, and put into the bundle."""
    profile = device_profiles.profile.load("desktop-rtx-4060")
    assert wanted_dialect(ORDER, profile) == "onnx"
    graph = half(tmp_path, "onnx")
    chosen = winner(tmp_path, graph, "fp16")
    made = engine_for(ORDER, profile, Work(), graph, chosen, 64, silent)
    assert made.engine.path == "engines/tensorrt-rtx-8.9.engine"
    written = chosen.directory / made.engine.path
    assert written.stat().st_size == made.engine.bytes
    recipe = msgspec.convert(made.engine.recipe, Recipe)  # for a GPU of another capability
    assert (recipe.runtime, recipe.dialect, recipe.strongly_typed) == ("tensorrt-rtx", "onnx", True)
    assert [profile.name for profile in recipe.shapes.profiles] == ["both"]
