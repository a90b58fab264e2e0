"""What does calibration text say of the inputs of each linear layer?

Runs the model over the text with hooks, in batches of equal length, and keeps sums: squares of each input feature, or
products of pairs. No activation outlives its batch. Does not know what the sums are for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from exporter.errors import CalibrationError
from exporter.text import Text

if TYPE_CHECKING:
    import torch

WINDOW_TOKENS: Final = 512  # as long as the windows in which accuracy is measured
_TOKENS_AT_ONCE: Final = 2048


def windows_of(model: Any, text: Text, longest: int = WINDOW_TOKENS) -> list[tuple[int, ...]]:
    """The rows of `text`, cut where they are longer than `longest` or than the model's positions.

    Raises CalibrationError where nothing is left: a row needs two tokens.
    """
    longest = min(longest, getattr(model.config, "max_position_embeddings", None) or longest)
    pieces = [row[start : start + longest] for row in text.rows for start in range(0, len(row), longest)]
    kept = [piece for piece in pieces if len(piece) > 1]
    if not kept:
        raise CalibrationError(f"{text.origin}: no row has two tokens, calibration needs more text")
    return kept


def batches(windows: list[tuple[int, ...]], tokens: int = _TOKENS_AT_ONCE) -> Iterator[torch.Tensor]:
    """int64 (rows, length) of windows of one length each, about `tokens` at a time; nothing is padded."""
    import torch

    by_length: dict[int, list[tuple[int, ...]]] = {}
    for window in windows:
        by_length.setdefault(len(window), []).append(window)
    for length, rows in by_length.items():
        at_once = max(1, tokens // length)
        for start in range(0, len(rows), at_once):
            yield torch.tensor(rows[start : start + at_once])


def run(model: Any, text: Text, on_progress: Callable[[float], None]) -> int:
    """Run all blocks of `model` over the text without gradients; returns how many tokens that were."""
    import torch

    windows = windows_of(model, text)
    total, done = sum(map(len, windows)), 0
    with torch.no_grad():
        for ids in batches(windows):
            model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids))
            done += ids.numel()
            on_progress(done / total)
    return total


def squared_sums(
    model: Any, text: Text, layers: Mapping[str, Any], on_progress: Callable[[float], None]
) -> dict[str, torch.Tensor]:
    """For each layer the sum of x_j^2 over all tokens, float64 (inputs,)."""
    import torch

    sums: dict[str, torch.Tensor] = {}

    def see(name: str, inputs: torch.Tensor) -> None:
        squares = inputs.float().pow(2).sum(0, dtype=torch.float64)
        sums[name] = sums[name] + squares if name in sums else squares

    with _watching(layers, see):
        run(model, text, on_progress)
    return sums


def second_moments(
    model: Any, text: Text, layers: Mapping[str, Any], size: int | None, on_progress: Callable[[float], None]
) -> dict[str, torch.Tensor]:
    """For each layer the mean of x_i * x_j over all tokens, within groups of `size` neighbouring inputs.

    float32 (inputs / size, size, size); `size` None takes all inputs as one group.
    """
    import torch

    sums: dict[str, torch.Tensor] = {}

    def see(name: str, inputs: torch.Tensor) -> None:
        grouped = inputs.float().reshape(len(inputs), -1, size or inputs.shape[-1]).transpose(0, 1)
        if name not in sums:
            sums[name] = torch.zeros(len(grouped), grouped.shape[-1], grouped.shape[-1])
        sums[name].baddbmm_(grouped.transpose(1, 2), grouped)

    with _watching(layers, see):
        tokens = run(model, text, on_progress)
    return {name: total.div_(tokens) for name, total in sums.items()}


@contextmanager
def _watching(layers: Mapping[str, Any], see: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
    """Call `see` with (tokens, inputs) before each of `layers` runs."""

    def hook(name: str) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
        return lambda module, args: see(name, args[0].reshape(-1, args[0].shape[-1]))

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
