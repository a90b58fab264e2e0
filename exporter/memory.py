"""Does a model fit on a device: weights, caches at the asked context, and the building of an engine?

Asked twice: before any work from the number of parameters, and afterwards with the bytes that were written. What the
operating system and activations take is not known and not counted, so a model that just fits here may not fit there.
Reads no file.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from device_profiles.profile import Profile
from edge_agent.bench import cache_bytes
from edge_agent.manifest import CacheLayout

# TensorRT holds the network, its optimized copy and the engine at once: about four times the weights of the graph.
# TensorRT-RTX 1.7.1 took 1,118 MB above its own 215 MB for SmolLM2 in fp16 with one optimization profile (4.1 times
# 270 MB; 6.8 times with two), and 230 MB for MiniLM (5.1 times 45 MB).
BUILD_FACTOR: Final = 4
_MB: Final = 10**6


class MemoryBudget(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle needs on its device at once, and what the device has (None: the machine's own, not known here).

    `build_bytes` is the engine's building, which goes on beside the graph that serves meanwhile.
    """

    device: str
    memory_bytes: int | None
    weights_bytes: int
    cache_bytes: int
    context: int
    build_bytes: int = 0

    @property
    def need_bytes(self) -> int:
        """All of it together."""
        return self.weights_bytes + self.cache_bytes + self.build_bytes

    @property
    def fits(self) -> bool:
        """Whether the device has that much, as far as is known."""
        return self.memory_bytes is None or self.need_bytes <= self.memory_bytes

    @property
    def arithmetic(self) -> str:
        """The sum in whole MB, each part rounded up, so that the parts add up to what is said."""
        parts = [(self.weights_bytes, "of weights")]
        if self.cache_bytes:
            parts.append((self.cache_bytes, f"of cache for {self.context} positions"))
        if self.build_bytes:
            parts.append((self.build_bytes, "to build the engine"))
        sizes_mb = [math.ceil(size / _MB) for size, _ in parts]
        terms = " + ".join(f"{size} MB {what}" for size, (_, what) in zip(sizes_mb, parts, strict=True))
        return terms if len(parts) == 1 else f"{terms} = {sum(sizes_mb)} MB"

    @property
    def refusal(self) -> str | None:
        """Why it does not fit, with the arithmetic and what would make it smaller, in one line; None if it does."""
        if self.fits or self.memory_bytes is None:
            return None
        ways = ["fewer bits"]
        if self.cache_bytes:
            ways.append("a shorter context")
        if self.build_bytes:
            ways.append("no engine")
        return (
            f"{self.arithmetic}, {self.device} has {self.memory_bytes // _MB} MB: "
            f"take {', '.join(ways)} or a larger device"
        )


def bits_per_weight(bits: int, *, block: int | None = None, scale_bits: int = 32, zero_point_bits: int = 0) -> float:
    """Bits that one weight takes with its share of its block's scale and zero point; `block` None is unquantized.

    >>> bits_per_weight(4, block=32, zero_point_bits=4)
    5.125
    >>> bits_per_weight(4, block=128, scale_bits=16)
    4.125
    >>> bits_per_weight(16)
    16.0
    """
    return float(bits) if block is None else bits + (scale_bits + zero_point_bits) / block


def check_memory(
    profile: Profile,
    *,
    parameters: int,
    weight_bits: float,
    cache: CacheLayout | None,
    context: int,
    engine_build: bool,
    weights_bytes: int | None = None,
) -> MemoryBudget:
    """The budget of `parameters` weights of `weight_bits` each (see `bits_per_weight`) on the profile's device.

    `weights_bytes`, once they are written, take the place of that estimate. `cache` is None for encoders; `context` is
    the number of positions served. `engine_build` says that the device itself builds an engine. Look at `refusal`.
    """
    weights = math.ceil(parameters * weight_bits / 8) if weights_bytes is None else weights_bytes
    return MemoryBudget(
        device=profile.name,
        memory_bytes=profile.memory_bytes,
        weights_bytes=weights,
        cache_bytes=0 if cache is None else cache_bytes(cache, context),
        context=context,
        build_bytes=BUILD_FACTOR * weights if engine_build else 0,
    )
