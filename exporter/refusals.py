"""Which models can be told at sight not to fit into a decoder graph, and why?

Reads the configuration and the modules' names, never runs the model; `probe.py` finds the rest by running it. Knows
what a decoder graph has no room for, not which architectures exist.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from exporter.errors import ConversionError

_CARRIED_LAYERS: Final = frozenset({"full_attention", "sliding_attention"})


def refuse_at_sight(model: Any) -> None:
    """Raise ConversionError that names `model`'s class and everything about it that cannot be carried."""
    found = _obstacles(model)
    if found:
        raise ConversionError(f"{type(model).__name__} cannot be exported: {'; '.join(found)}")


def _obstacles(model: Any) -> list[str]:
    whole = model.config
    config = whole.get_text_config(decoder=True)
    shared = getattr(config, "num_kv_shared_layers", 0) or 0
    checks = (
        (
            bool(getattr(whole, "is_encoder_decoder", False)),
            "it is an encoder-decoder, and this exporter takes decoders alone",
        ),
        (
            any("Expert" in type(module).__name__ for module in model.modules()),
            "it is a mixture of experts, which routes each token by its data, and a graph runs the same nodes for all",
        ),
        (
            any(name.rsplit(".", 1)[-1] == "sinks" for name, _ in model.named_parameters()),
            "it has attention sinks, which not all runtimes know",
        ),
        (
            _is_biased_by_distance(model),
            "it adds a bias by distance to its attention (ALiBi) instead of positions",
        ),
        (
            bool(shared),
            f"its last {shared} layers share the keys and values of others, and the cache has one pair a layer",
        ),
        (
            "longrope" in _rotary_types(config),
            "its rotary embeddings (longrope) change with the text's length, and a table cannot",
        ),
    )
    odd = sorted(set(getattr(config, "layer_types", None) or ()) - _CARRIED_LAYERS)
    layers = [f"it has layers of type {', '.join(odd)}, and a graph carries {', '.join(sorted(_CARRIED_LAYERS))}"]
    return [reason for applies, reason in checks if applies] + (layers if odd else [])


def _is_biased_by_distance(model: Any) -> bool:
    """Falcon says it in its configuration; BLOOM and MPT only have a function that builds the bias."""
    said = getattr(model.config, "alibi", None)
    if said is not None:
        return bool(said)
    return any("alibi" in name for name in vars(sys.modules[type(model).__module__]))


def _rotary_types(config: Any) -> set[Any]:
    """All types of rotary embedding; where they differ by layer, the configuration nests them."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = {value.get("rope_type") for value in parameters.values() if isinstance(value, dict)}
    return {parameters.get("rope_type")} | nested
