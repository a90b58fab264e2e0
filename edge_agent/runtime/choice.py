"""Which runtimes come into question for a bundle, in which order, and what is said of those that are not used?

Pure: asks nothing of the machine.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import msgspec

import device_profiles
from device_profiles.profile import Runtime
from edge_agent.manifest import Engine, Manifest
from hub import wire

Asked = Literal["auto", "tensorrt", "tensorrt-rtx", "cuda", "cpu"]

BEST_FIRST: Final[tuple[Runtime, ...]] = get_args(Runtime)
ENGINE_RUNTIMES: Final = ("tensorrt", "tensorrt-rtx")
CUDA_CACHE: Final = "float16"  # of GroupQueryAttention on CUDA: group_query_attention.cc of ONNX Runtime, 1.19 to 1.23


class Choice(msgspec.Struct, frozen=True):
    """The runtime that is used, and each better one with the reason why not, best first."""

    used: Runtime
    why_not: tuple[tuple[Runtime, str], ...] = ()

    @property
    def why(self) -> str:
        """One line of at most `wire.MAX_WHY_CHARS`.

        >>> Choice("cpu", (("tensorrt", "no GPU"), ("cuda", "no GPU"))).why
        'tensorrt: no GPU; cuda: no GPU'
        """
        line = "; ".join(f"{runtime}: {' '.join(reason.split())}" for runtime, reason in self.why_not)
        return line if len(line) <= wire.MAX_WHY_CHARS else line[: wire.MAX_WHY_CHARS - 3] + "..."

    def without(self, runtime: Runtime, reason: str) -> Choice:
        """The same, and `reason` why `runtime` is not used, in place of what was said of it before."""
        rest = (pair for pair in self.why_not if pair[0] != runtime)
        return Choice(self.used, tuple(sorted((*rest, (runtime, reason)), key=lambda pair: BEST_FIRST.index(pair[0]))))

    def using(self, runtime: Runtime) -> Choice:
        """`runtime` is used; what is said of worse ones is no matter any more."""
        place = BEST_FIRST.index(runtime)
        return Choice(runtime, tuple(pair for pair in self.why_not if BEST_FIRST.index(pair[0]) < place))


def runtimes_for(manifest: Manifest, asked: Asked = "auto") -> tuple[Runtime, ...]:
    """What is tried, best first: the profile's runtimes, or the one that is asked for.

    A bundle of a profile that is not known here tries all.
    """
    if asked != "auto":
        return (asked,)
    if manifest.profile not in device_profiles.names():
        return BEST_FIRST
    return device_profiles.load(manifest.profile).runtimes


def lacking(manifest: Manifest, runtime: Runtime) -> str | None:
    """Why the bundle cannot be run by `runtime` on any machine; None if it can."""
    if runtime in ENGINE_RUNTIMES:
        if manifest.encoder is not None:
            return f"encoders are not run by {runtime}"
        if engine_entry(manifest, runtime) is None:
            return f"the bundle, for {manifest.profile}, has no engine and no recipe for it: export it for this device"
    if runtime == "cuda":
        cache = next((graph.cache for graph in manifest.graphs if graph.dialect == "ort"), None)
        if cache is not None and cache.dtype != CUDA_CACHE:
            return (
                f"the graph's caches are {cache.dtype}, and ONNX Runtime's attention on CUDA takes {CUDA_CACHE} alone: "
                "export with --precision fp16"
            )
    return None


def engine_entry(manifest: Manifest, runtime: str) -> Engine | None:
    """The manifest's engine for a runtime."""
    return next((engine for engine in manifest.engines if engine.runtime == runtime), None)
