"""TensorRT's one file: its library, its versions, how a network is told to it. Builds are tested by test_engine_process
and by the exporter's test_engine, runs by test_tensorrt_decoder.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_agent.errors import RuntimeUnavailable
from edge_agent.manifest import Graph
from edge_agent.recipe import ShapeRanges
from edge_agent.runtime.engine_process import Event, Order
from edge_agent.runtime.gpu import Gpu
from edge_agent.runtime.tensorrt import OpenEngine, build, library, version_refusal
from tests.edge_agent.runtime.engine_bundles import recipe
from tests.edge_agent.runtime.stand_ins import HostDriver, decoder_profiles, tensorrt_over

NOTHING = ShapeRanges(profiles=())


@pytest.mark.parametrize(
    ("runtime", "module", "what"),
    [("tensorrt", "tensorrt", "JetPack"), ("tensorrt-rtx", "tensorrt_rtx", r"edgefleet\[tensorrt\]")],
)
def test_a_library_that_is_not_here_is_named_with_its_source(
    runtime: str, module: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One comes with the device's system, the other from PyPI."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RuntimeUnavailable, match=f"{module} cannot be imported .*{what}"):
        library(runtime)


@pytest.mark.parametrize(
    ("version", "fits"), [("10.3.0", True), ("10.16.1.post2", True), ("10.2.9", False), ("11.0.0", False)]
)
def test_a_recipe_is_for_some_versions(version: str, fits: bool) -> None:
    """From the one it was written for to below the next major one, compared as numbers."""
    assert (version_refusal(recipe("tensorrt", NOTHING), version) is None) == fits


class Flags:
    """TensorRT 8's builder, as far as `build` tells it anything before it parses."""

    def __init__(self) -> None:
        self.network: int | None = None

        class Logger:
            ERROR, INTERNAL_ERROR = 1, 2

        self.ILogger = Logger
        self.NetworkDefinitionCreationFlag = SimpleNamespace(EXPLICIT_BATCH=0, STRONGLY_TYPED=1)

    def Builder(self, logger: Any) -> Any:  # noqa: N802
        def create_network(flags: int) -> Any:
            self.network = flags
            return SimpleNamespace()

        return SimpleNamespace(create_network=create_network)

    def OnnxParser(self, network: Any, logger: Any) -> Any:  # noqa: N802
        error = SimpleNamespace(desc=lambda: "Assertion failed: no\nimporter", node=lambda: 7)
        return SimpleNamespace(parse_from_file=lambda path: False, num_errors=1, get_error=lambda index: error)


@pytest.mark.parametrize(("strongly_typed", "flags"), [(True, 2), (False, 1)])
def test_an_older_tensorrt_is_told_of_its_batch_and_tells_less(
    strongly_typed: bool, flags: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT 8 has no strong types, wants to hear of the explicit batch, and numbers nodes without names."""
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in := Flags())
    told: list[Event] = []
    build(Order(graph_path="g.onnx", runtime="tensorrt", strongly_typed=strongly_typed), told.append)
    assert stand_in.network == flags
    assert told == [Event(refused=("node 7: no importer",))]


def test_shapes_that_no_profile_has_are_told(
    tiny_graph: tuple[Path, Graph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked for, without the caches, whose shapes never change."""
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_over(tiny_graph[0], decoder_profiles(tiny_graph[1], 16)))
    (tmp_path / "e").write_bytes(b"engine")
    engine = OpenEngine("tensorrt", tmp_path / "e", Gpu(HostDriver()))
    assert (engine.most("input_ids", 1), engine.most("logits_to_keep", 0), engine.shape("logits")[2]) == (16, 4, 384)
    with pytest.raises(RuntimeUnavailable, match=r"was not built for input_ids \[1, 17\], logits_to_keep \[1\]"):
        engine.run({"input_ids": (1, 17), "logits_to_keep": (1,), "past_key_values.0.key": (1, 2, 16, 16)}, {})
    with pytest.raises(RuntimeUnavailable, match=r"does not run input_ids \[1, 1\]: it gives no reason"):
        engine.run({"input_ids": (1, 1)}, {"strange": 1})
