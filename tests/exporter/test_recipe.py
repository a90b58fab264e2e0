"""The recipe that a Jetson builds its engine by, and precisions that a GPU lacks."""

from __future__ import annotations

import msgspec
import pytest

import device_profiles
from device_profiles import Profile, with_jetpack
from edge_agent.manifest import CacheLayout, Graph
from exporter.errors import EngineError
from exporter.memory import MemoryBudget, check_memory
from exporter.recipe import Check, Recipe, as_table, build_recipe, precision_refusal
from exporter.shapes import default_shapes

ORIN = device_profiles.load("jetson-orin")
CACHE = CacheLayout(layers=2, kv_heads=2, head_dim=16, dtype="float16")
CHECK = Check(samples=8, metric="next_token_accuracy", budget_points=1.0)
PLAIN = Graph(path="model/plain.onnx", dialect="plain", inputs=("input_ids",), outputs=("logits",), cache=CACHE)
SHAPES = default_shapes(PLAIN, {"input_ids": ("batch", "sequence")}, context=1024, prefill_apart=True)


def budget(profile: Profile = ORIN, parameters: int = 10**8) -> MemoryBudget:
    """What int4 weights with a cache of 1,024 positions need."""
    return check_memory(profile, parameters=parameters, weight_bits=4.5, cache=CACHE, context=1024, engine_build=True)


def recipe(profile: Profile = ORIN, graph: Graph = PLAIN, precision: str = "int4") -> Recipe:
    """A recipe with everything else as above."""
    return build_recipe(profile, graph, precision=precision, shapes=SHAPES, budget=budget(profile), check=CHECK)


def test_recipe_holds_what_a_device_needs() -> None:
    """Versions, graph, types, shapes, memory, the key of the cache and the check are all there."""
    found = recipe()
    assert (found.runtime, found.tensorrt_at_least, found.tensorrt_below) == ("tensorrt", "10.3", "11")
    assert (found.graph, found.dialect, found.precision) == ("model/plain.onnx", "plain", "int4")
    assert (found.strongly_typed, found.flags) == (True, ())
    assert [profile.name for profile in found.shapes.profiles] == ["decode", "prefill"]
    assert found.workspace_bytes == 2**29  # an eighth of 4 GB
    assert found.build_bytes == 4 * 10**8 * 4.5 / 8
    assert found.serve_bytes == budget().weights_bytes + budget().cache_bytes
    assert {"tensorrt", "cuda", "driver", "gpu"} <= set(found.cache_key)
    assert found.check == CHECK


def test_recipe_survives_the_manifest() -> None:
    """The table in a manifest reads back as the same recipe."""
    table = msgspec.json.decode(msgspec.json.encode(as_table(recipe())))
    assert msgspec.convert(table, Recipe) == recipe()


def test_tensorrt_8_takes_flags_instead_of_types() -> None:
    """Before strong typing, precisions are flags of the builder."""
    old = with_jetpack(ORIN, "6.0")
    found = recipe(old, precision="int8")
    assert (found.strongly_typed, found.flags) == (False, ("FP16", "INT8"))
    assert (found.tensorrt_at_least, found.tensorrt_below) == ("8.6", "9")


@pytest.mark.parametrize(
    ("profile", "graph", "precision", "why"),
    [
        ("desktop-cpu", PLAIN, "int4", "desktop-cpu does not build TensorRT engines"),
        ("jetson-orin", PLAIN, "fp8", "no engine for jetson-orin in fp8: SM 8.7 has no FP8"),
        ("jetson-orin", msgspec.structs.replace(PLAIN, dialect="ort"), "int4", "does not parse a graph of dialect ort"),
        ("jetson-orin", msgspec.structs.replace(PLAIN, dialect="onnx"), "int4", "TensorRT 10.3 does not parse"),
    ],
)
def test_what_the_device_cannot_build_is_refused(profile: str, graph: Graph, precision: str, why: str) -> None:
    """A recipe that would fail on the device is refused where it is written, in one line with the reason."""
    with pytest.raises(EngineError, match=why):
        recipe(device_profiles.load(profile), graph, precision)


def test_types_that_an_old_parser_lacks_are_refused() -> None:
    """int4 is of the GPU, but TensorRT 8.6 cannot read it."""
    with pytest.raises(EngineError, match=r"TensorRT 8\.6 reads no weights of INT4: take int8 or fp16"):
        recipe(with_jetpack(ORIN, "6.0"))


def test_fused_dialect_is_taken_by_a_newer_jetpack() -> None:
    """JetPack 7.2 parses the fused operators that 6.2 refuses."""
    fused = msgspec.structs.replace(PLAIN, dialect="onnx")
    found = recipe(with_jetpack(ORIN, "7.2"), fused)
    assert found.dialect == "onnx"
    assert found.decomposable_attention
    assert not recipe().decomposable_attention


def test_model_that_does_not_fit_has_no_recipe() -> None:
    """A device that cannot hold the build is refused with the arithmetic."""
    with pytest.raises(EngineError, match=r"no engine for jetson-orin in int4: .* MB to build the engine = "):
        build_recipe(ORIN, PLAIN, precision="int4", shapes=SHAPES, budget=budget(parameters=5 * 10**9), check=CHECK)


@pytest.mark.parametrize(
    ("profile", "precision", "why"),
    [
        ("jetson-orin", "fp8", "SM 8.7 has no FP8: it needs compute capability 8.9 or newer"),
        ("jetson-orin", "fp4", "SM 8.7 has no FP4: it needs compute capability 10.0 or newer"),
        ("desktop-rtx-4090", "fp4", "SM 8.9 has no FP4: it needs compute capability 10.0 or newer"),
        ("desktop-rtx-4090", "fp8", None),
        ("jetson-orin", "int4", None),
        ("desktop-cpu", "fp16", "desktop-cpu runs int4, int8, fp32, not fp16"),
        ("desktop-cpu", "fp8", "desktop-cpu runs int4, int8, fp32, not fp8"),
    ],
)
def test_precision_that_the_gpu_lacks_is_refused_with_the_reason(profile: str, precision: str, why: str | None) -> None:
    """The reason is the GPU's capability where that is what is missing, else what the profile runs."""
    assert precision_refusal(device_profiles.load(profile), precision) == why


def test_a_desktop_gpu_has_a_recipe_for_tensorrt_rtx() -> None:
    """Strongly typed as that knows nothing else, and of its own dialect."""
    fused = msgspec.structs.replace(PLAIN, dialect="onnx")
    found = recipe(device_profiles.load("desktop-rtx-4060"), fused)
    assert (found.runtime, found.tensorrt_at_least, found.tensorrt_below) == ("tensorrt-rtx", "1.7", "2")
    assert (found.strongly_typed, found.flags, found.decomposable_attention) == (True, (), True)
