"""Will it fit on the device? Asked before any work, from the checkpoint's configuration.

An estimate: what is written is held against the same memory again (`judge.py`). Reads no file.
"""

from __future__ import annotations

from typing import Final

from device_profiles.profile import Profile
from edge_agent.manifest import CacheLayout
from exporter.errors import OrderError
from exporter.memory import MemoryBudget, bits_per_weight, check_memory
from exporter.order import Order
from exporter.recipes import recipes
from exporter.source import Source

_BITS: Final = {"int4": 4, "mixed": 4, "int8": 8}  # mixed: at least
_FLOAT_BITS: Final = {"fp16": 16, "fp32": 32}


def budget(order: Order, profile: Profile, source: Source, context: int, precision: str) -> MemoryBudget:
    """What a bundle of `precision` would need on the profile's device, serving `context` positions.

    Pruning and compression make it smaller and are not foreseen.
    """
    if precision in _BITS:
        bits = _BITS[precision]
        weight_bits = bits_per_weight(bits, block=order.block_size, zero_point_bits=bits)
    else:
        weight_bits = float(_FLOAT_BITS[precision])
    return check_memory(
        profile,
        parameters=source.info.parameters,
        weight_bits=weight_bits,
        cache=_cache(source) if source.task == "text-generation" else None,
        context=context,
        engine_build=order.engine != "none" and "tensorrt" in profile.runtimes,
    )


def refuse_too_large(order: Order, profile: Profile, source: Source, context: int) -> None:
    """Raises OrderError, with the arithmetic, if not even the smallest candidate of `order` fits."""
    if order.prune or order.compress is not None:
        return
    tried = recipes(order, profile.precisions, on_grid=False)
    refusals = [budget(order, profile, source, context, one.precision).refusal for one in tried]
    if refusals and all(refusals):
        raise OrderError(f"{source.info.name} does not fit in {tried[0].precision}: {refusals[0]}")


def _cache(source: Source) -> CacheLayout:
    """The KV cache as the configuration describes it, in float32."""
    config = source.model.config
    heads = config.num_attention_heads
    return CacheLayout(
        layers=config.num_hidden_layers,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        dtype="float32",
    )
