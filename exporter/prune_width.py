"""Which feed-forward channels and which attention heads go, for the whole model to become narrower?

Those whose part of the block's output is smallest on calibration text: E||W_g x_g||^2, where x_g are the inputs of the
down (or output) projection that belong to channel or head g, and W_g its columns. With grouped queries a key-value head
goes together with the query heads that it serves. Each block loses equally many: a configuration has one number.

Does not know how they are taken out: `shrink.py` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from exporter.activations import second_moments, squared_sums
from exporter.errors import ConversionError
from exporter.linear import matrix
from exporter.shrink import remove_channels, remove_groups
from exporter.structure import attentions_of, feed_forwards_of
from exporter.text import Text

if TYPE_CHECKING:
    import torch

WIDTH_STEP: Final = 32  # quantization blocks: a width that was a multiple stays one


def channels(model: Any, amount: float, calibration: Text, on_progress: Callable[[float], None]) -> dict[str, Any]:
    """Remove the share `amount` of the feed-forward channels of each block."""
    layers = feed_forwards_of(model)
    width = layers[0].width
    keep = kept_width(width, width * (1 - amount), f"removing {amount:g}")
    sums = squared_sums(model, calibration, {one.name: one.down for one in layers}, on_progress)
    kept = [_largest(channel_energy(matrix(one.down), sums[one.name]), keep) for one in layers]
    remove_channels(model, kept)
    return {
        "removed": f"feed-forward channels {width} -> {keep} in each of {len(layers)} blocks, by activation energy",
        "channels_before": width,
        "channels_after": keep,
        **({"rounded_to_multiples_of": WIDTH_STEP} if width % WIDTH_STEP == 0 else {}),
        "calibration": calibration.origin,
    }


def heads(model: Any, amount: float, calibration: Text, on_progress: Callable[[float], None]) -> dict[str, Any]:
    """Remove the share `amount` of the heads of each block, as whole key-value groups."""
    layers = attentions_of(model)
    first = layers[0]
    gone = round(first.kv_heads * amount)
    if not 0 < gone < first.kv_heads:
        outcome = "none" if gone == 0 else "all"
        raise ConversionError(
            f"{amount:g} of {first.kv_heads} key-value groups is {first.kv_heads * amount:g}, "
            f"which rounds to {outcome} of them"
        )
    keep = first.kv_heads - gone
    size = first.heads_per_group * first.head_dim
    moments = second_moments(model, calibration, {one.name: one.output for one in layers}, size, on_progress)
    kept = [_largest(group_energy(matrix(one.output), moments[one.name]), keep) for one in layers]
    remove_groups(model, kept)
    before, after = first.heads, keep * first.heads_per_group
    return {
        "removed": f"attention heads {before} -> {after} (key-value heads {first.kv_heads} -> {keep}) "
        f"in each of {len(layers)} blocks, by activation energy",
        "heads_before": before,
        "heads_after": after,
        "kv_heads_before": first.kv_heads,
        "kv_heads_after": keep,
        "calibration": calibration.origin,
    }


def kept_width(width: int, wanted: float, what: str) -> int:
    """`wanted` of `width` channels, rounded to a multiple of 32 where `width` is one; ConversionError if none or all.

    >>> kept_width(1536, 1150.0, "removing 0.25"), kept_width(100, 74.6, "removing 0.25")
    (1152, 75)
    """
    step = WIDTH_STEP if width % WIDTH_STEP == 0 else 1
    keep = round(wanted / step) * step
    if 0 < keep < width:
        return keep
    rounded = f"in steps of {step} that is " if step > 1 else "that is "
    raise ConversionError(f"{what} of {width} feed-forward channels leaves {wanted:.1f}: {rounded}{keep} of {width}")


def channel_energy(down: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
    """Of each channel ||W_j||^2 * sum of x_j^2, from the (outputs, channels) matrix and the sums (channels,)."""
    return down.double().pow(2).sum(0) * squares.double()


def group_energy(output: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
    """Of each group trace(W_g E[x_g x_g^T] W_g^T), from (outputs, groups * size) and (groups, size, size)."""
    import torch

    groups, size, _ = moments.shape
    columns = output.double().reshape(-1, groups, size)
    return torch.einsum("ogi,gij,ogj->g", columns, moments.double(), columns)


def _largest(energy: torch.Tensor, count: int) -> torch.Tensor:
    """The indices of the `count` largest, in the order of the model; the earlier of equals."""
    order = energy.argsort(descending=True, stable=True)[:count]
    return order.sort().values
