"""Which runtimes come into question, in which order, and what is said of the others."""

from __future__ import annotations

import msgspec
import pytest

from edge_agent.manifest import CacheLayout, EncoderInfo, Engine, Graph, Manifest
from edge_agent.runtime.choice import BEST_FIRST, Choice, lacking, runtimes_for
from hub import wire
from tests.edge_agent.conftest import draft_manifest


def manifest(dtype: str = "float16", **fields: object) -> Manifest:
    cache = CacheLayout(layers=1, kv_heads=1, head_dim=2, dtype=dtype)  # type: ignore[arg-type]
    graph = Graph(path="model/d.onnx", dialect="ort", inputs=(), outputs=(), cache=cache)
    return msgspec.structs.replace(draft_manifest(graph), **fields)


ENGINE = Engine(runtime="tensorrt", compute_capability="8.7", precision="int4", graph="model/d.onnx", recipe={})


@pytest.mark.parametrize(
    ("profile", "asked", "order"),
    [
        ("desktop-cpu", "auto", ("cpu",)),
        ("jetson-orin", "auto", ("tensorrt", "cuda", "cpu")),
        ("desktop-rtx-4060", "auto", ("tensorrt-rtx", "cuda", "cpu")),
        ("desktop-rtx-4060", "cpu", ("cpu",)),
        ("desktop-cpu", "tensorrt", ("tensorrt",)),
        ("a-later-profile", "auto", ("tensorrt", "tensorrt-rtx", "cuda", "cpu")),
    ],
)
def test_the_profile_says_the_order(profile: str, asked: str, order: tuple[str, ...]) -> None:
    """Best first; what is asked for by name is all that is tried; a profile that is not known rules nothing out."""
    assert runtimes_for(manifest(profile=profile), asked) == order  # type: ignore[arg-type]


def test_a_bundle_runs_on_what_it_carries() -> None:
    """An engine or a recipe for TensorRT, caches of half floats for CUDA; encoders have no engine."""
    assert lacking(manifest(), "cpu") is None
    assert lacking(manifest(), "cuda") is None
    assert "caches are float32" in (lacking(manifest("float32"), "cuda") or "")
    assert "has no engine" in (lacking(manifest(), "tensorrt") or "")
    assert lacking(manifest(engines=(ENGINE,)), "tensorrt") is None
    assert "has no engine" in (lacking(manifest(engines=(ENGINE,)), "tensorrt-rtx") or "")
    encoder = manifest(engines=(ENGINE,), encoder=EncoderInfo(max_tokens=8))
    assert lacking(encoder, "tensorrt") == "encoders are not run by tensorrt"


def test_reasons_stand_in_the_order_of_the_runtimes() -> None:
    """However they came; a later reason takes the place of an earlier one; worse runtimes are not told of."""
    choice = Choice("cpu").without("cuda", "no\nGPU").without("tensorrt", "being built").without("tensorrt", "no room")
    assert choice.why_not == (("tensorrt", "no room"), ("cuda", "no\nGPU"))
    assert choice.why == "tensorrt: no room; cuda: no GPU"
    assert choice.using("cuda") == Choice("cuda", (("tensorrt", "no room"),))
    assert choice.using(BEST_FIRST[0]) == Choice("tensorrt")


def test_the_line_is_bounded() -> None:
    """A library's essay does not go through the fleet."""
    line = Choice("cpu", (("cuda", "x" * 1000),)).why
    assert len(line) == wire.MAX_WHY_CHARS
    assert line.endswith("...")
