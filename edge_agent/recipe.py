"""How does a device build the engine of one graph? The values of a recipe, as `manifest.Engine.recipe` holds them.

The exporter writes recipes (`exporter.recipe`), `edge_agent.runtime` follows them. Builds nothing.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

CACHE_KEY: Final = ("gpu", "compute_capability", "tensorrt", "cuda", "driver", "graph_sha256", "recipe_sha256")


class ShapeRange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shapes of one input, all of one rank, each size at least as large as the one before."""

    minimum: tuple[int, ...]
    optimum: tuple[int, ...]
    maximum: tuple[int, ...]

    def __post_init__(self) -> None:
        sizes = list(zip(self.minimum, self.optimum, self.maximum, strict=True))
        if any(not 0 <= low <= best <= high for low, best, high in sizes):
            raise ValueError(f"shapes must not shrink: {self.minimum}, {self.optimum}, {self.maximum}")


class ShapeProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One optimization profile: a range for every input."""

    name: str
    inputs: dict[str, ShapeRange]


class ShapeRanges(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The optimization profiles of one engine, in the order in which a runtime numbers them."""

    profiles: tuple[ShapeProfile, ...]


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the engine must give before it is called ready.

    It answers the first `samples` samples of the manifest as they are written there, and on the device's own text loses
    at most `budget_points` of `metric` against the graph that serves. None: the manifest holds no accuracy.
    """

    samples: int
    metric: str | None
    budget_points: float | None


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a device builds the engine of one graph. `tensorrt_at_least` and `tensorrt_below` are versions.

    `flags` are names of `tensorrt.BuilderFlag`; a strongly typed network takes its types from the graph and has none.
    `decomposable_attention` tells the device to set `IAttention.decomposable`, which the parser leaves off: without it
    a builder refuses attention that it has no fused kernel for. `build_bytes` is memory for building, beside the
    `serve_bytes` of the graph that serves meanwhile.
    """

    runtime: Literal["tensorrt", "tensorrt-rtx"]
    tensorrt_at_least: str
    tensorrt_below: str
    graph: str
    dialect: Literal["plain", "onnx"]
    precision: str
    strongly_typed: bool
    flags: tuple[str, ...]
    decomposable_attention: bool
    shapes: ShapeRanges
    workspace_bytes: int
    build_bytes: int
    serve_bytes: int
    cache_key: tuple[str, ...]
    check: Check
