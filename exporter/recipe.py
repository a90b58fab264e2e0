"""What does a device need to know to build the engine itself, and can its GPU run the precision at all?

TensorRT's engines are tied to GPU, TensorRT, CUDA and driver, and no builder for a Jetson runs elsewhere: so the bundle
carries the graph and this recipe, and the agent builds, checks against the manifest's samples, and keeps the engine
under that key. A desktop's bundle has an engine, and a recipe for GPUs of another compute capability. Builds nothing.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from device_profiles.profile import Profile, first_capability
from edge_agent.manifest import Graph
from edge_agent.recipe import CACHE_KEY, Check, Recipe, ShapeRanges
from exporter.errors import EngineError
from exporter.memory import BUILD_FACTOR, MemoryBudget
from exporter.operators import FIRST_WITH_FUSED_DECODERS, operator_list

WORKSPACE_BYTES: Final = 2**30
_FIRST_STRONGLY_TYPED: Final = 9  # kSTRONGLY_TYPED stands in NvInfer.h from 9.1 on, not in that of 8.6


def precision_refusal(profile: Profile, precision: str) -> str | None:
    """Why the profile's device does not run `precision`, or None if it does.

    >>> import device_profiles
    >>> precision_refusal(device_profiles.load("jetson-orin"), "fp8")
    'SM 8.7 has no FP8: it needs compute capability 8.9 or newer'
    """
    if precision in profile.precisions:
        return None
    first = first_capability(precision)
    if first is not None and profile.compute_capability is not None:
        capability = tuple(int(part) for part in profile.compute_capability.split("."))
        if capability < first:
            needed = ".".join(str(part) for part in first)
            return (
                f"SM {profile.compute_capability} has no {precision.upper()}: "
                f"it needs compute capability {needed} or newer"
            )
    return f"{profile.name} runs {', '.join(profile.precisions)}, not {precision}"


def build_recipe(
    profile: Profile, graph: Graph, *, precision: str, shapes: ShapeRanges, budget: MemoryBudget, check: Check
) -> Recipe:
    """The recipe for `graph` in a dialect that the profile's TensorRT parses, with weights of `precision`.

    `budget` is what `exporter.memory.check_memory` said of this graph with `engine_build`. Raises EngineError for a
    profile without TensorRT or TensorRT-RTX, a precision or dialect that it lacks, or a budget that does not fit.
    """
    runtime = next((one for one in profile.runtimes if one in ("tensorrt", "tensorrt-rtx")), None)
    version = profile.software.tensorrt if runtime == "tensorrt" else profile.software.tensorrt_rtx
    if runtime is None or version is None:
        raise EngineError(f"{profile.name} does not build TensorRT engines: it runs {', '.join(profile.runtimes)}")
    full = runtime == "tensorrt"
    refusal = (
        precision_refusal(profile, precision) or (_type_refusal(version, precision) if full else None) or budget.refusal
    )
    if refusal is not None:
        raise EngineError(f"no engine for {profile.name} in {precision}: {refusal}")
    numbers = tuple(int(part) for part in version.split("."))
    if graph.dialect == "ort" or (full and graph.dialect == "onnx" and numbers < FIRST_WITH_FUSED_DECODERS):
        raise EngineError(f"TensorRT {version} does not parse a graph of dialect {graph.dialect}")
    strongly_typed = not full or numbers[0] >= _FIRST_STRONGLY_TYPED
    return Recipe(
        runtime=runtime,
        tensorrt_at_least=version,
        tensorrt_below=str(numbers[0] + 1),  # within a major version operators were only ever added
        graph=graph.path,
        dialect=graph.dialect,
        precision=precision,
        strongly_typed=strongly_typed,
        flags=() if strongly_typed else _flags(precision),
        decomposable_attention=graph.dialect == "onnx",
        shapes=shapes,
        workspace_bytes=_workspace_bytes(profile),
        build_bytes=budget.build_bytes or BUILD_FACTOR * budget.weights_bytes,
        serve_bytes=budget.weights_bytes + budget.cache_bytes,
        cache_key=CACHE_KEY,
        check=check,
    )


def as_table(recipe: Recipe) -> dict[str, Any]:
    """The recipe as `edge_agent.manifest.Engine.recipe` holds it."""
    table: dict[str, Any] = msgspec.to_builtins(recipe)
    return table


def _type_refusal(tensorrt: str, precision: str) -> str | None:
    """Weights that this TensorRT's parser has no type for, whatever the GPU could do."""
    element = {"int4": "INT4", "fp8": "FLOAT8E4M3FN", "fp4": "FLOAT4E2M1"}.get(precision)
    if element is None or element in operator_list(tensorrt).weights:
        return None
    return f"TensorRT {tensorrt} reads no weights of {precision.upper()}: take int8 or fp16, or a newer JetPack"


def _flags(precision: str) -> tuple[str, ...]:
    return {"fp32": (), "int8": ("FP16", "INT8")}.get(precision, ("FP16",))


def _workspace_bytes(profile: Profile) -> int:
    """A gigabyte, or an eighth of a smaller device: scratch memory of one kernel, not of the model."""
    return WORKSPACE_BYTES if profile.memory_bytes is None else min(WORKSPACE_BYTES, profile.memory_bytes // 8)
