"""Which whole blocks go, for the model to become shallower?

Those that change their input least on calibration text: Block Influence, 1 - E[cos(input, output)] over tokens (Men et
al., "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect", 2024, arXiv:2403.03853).

Does not know how they are taken out: `shrink.py` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from exporter.activations import run
from exporter.errors import ConversionError
from exporter.shrink import remove_blocks
from exporter.structure import stack_of
from exporter.text import Text


def blocks(model: Any, amount: float, calibration: Text, on_progress: Callable[[float], None]) -> dict[str, Any]:
    """Remove the share `amount` of the blocks; at least one stays."""
    count = len(stack_of(model).blocks)
    gone = round(count * amount)
    if not 0 < gone < count:
        outcome = "none" if gone == 0 else "all"
        raise ConversionError(f"{amount:g} of {count} blocks is {count * amount:g}, which rounds to {outcome} of them")
    influence = influences(model, calibration, on_progress)
    removed = sorted(sorted(range(count), key=lambda index: influence[index])[:gone])
    remove_blocks(model, removed)
    return {
        "removed": f"blocks {count} -> {count - gone}, by influence: {', '.join(map(str, removed))}",
        "blocks_before": count,
        "blocks_after": count - gone,
        "blocks_removed": removed,
        "influence": [round(value, 5) for value in influence],
        "calibration": calibration.origin,
    }


def influences(model: Any, text: Text, on_progress: Callable[[float], None]) -> list[float]:
    """Of each block 1 - E[cos(input, output)] over the tokens of the text: 0 changes nothing but the length."""
    import torch

    every = stack_of(model).blocks
    sums = [0.0] * len(every)

    def hook(index: int) -> Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]:
        def saw(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            entered = args[0] if args else kwargs["hidden_states"]
            left = output[0] if isinstance(output, tuple) else output
            cosines = torch.nn.functional.cosine_similarity(entered.float(), left.float(), dim=-1)
            sums[index] += float(cosines.sum(dtype=torch.float64))

        return saw

    handles = [block.register_forward_hook(hook(i), with_kwargs=True) for i, block in enumerate(every)]
    try:
        tokens = run(model, text, on_progress)
    finally:
        for handle in handles:
            handle.remove()
    return [1 - total / tokens for total in sums]
