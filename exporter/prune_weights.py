"""Which single weights of a linear layer become zero?

By magnitude, by magnitude times the norm of the input (Wanda: Sun et al., "A Simple and Effective Pruning Approach for
Large Language Models", 2023, arXiv:2306.11695), or two of each four neighbours (the pattern that sparse tensor cores
of Ampere and newer GPUs take). All linear layers of the blocks, not the embedding and the head. The norms of all layers
are taken from the model as it comes, in one pass over the text; the paper takes each block's after pruning those below.

Dense kernels run as long as before: what zeros buy is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from exporter.activations import squared_sums
from exporter.errors import ConversionError
from exporter.linear import matrix
from exporter.structure import linears_of
from exporter.text import Text

if TYPE_CHECKING:
    import torch

_GROUP: Final = 4


def magnitude(model: Any, amount: float, on_progress: Callable[[float], None]) -> dict[str, Any]:
    """Zero the smallest share `amount` of each layer's weights."""
    layers = linears_of(model)
    for number, (name, linear) in enumerate(layers.items()):
        weight = matrix(linear)
        _count_of(amount, weight.numel(), f"weights of {name}")
        weight[smallest_of_all(weight.abs(), amount)] = 0
        on_progress((number + 1) / len(layers))
    return {"removed": f"the smallest {amount:g} of the weights of each of {len(layers)} linear layers"}


def wanda(model: Any, amount: float, calibration: Text, on_progress: Callable[[float], None]) -> dict[str, Any]:
    """Zero in each output row the share `amount` with the smallest |weight| * ||input||."""
    layers = linears_of(model)
    sums = squared_sums(model, calibration, layers, on_progress)
    for name, linear in layers.items():
        weight = matrix(linear)
        _count_of(amount, weight.shape[1], f"inputs of {name}")
        weight[smallest_of_row(_scores(weight, sums[name]), amount)] = 0
    return {
        "removed": f"{amount:g} of each output row of {len(layers)} linear layers, by |weight| * ||input||",
        "calibration": calibration.origin,
    }


def two_of_four(model: Any, calibration: Text | None, on_progress: Callable[[float], None]) -> dict[str, Any]:
    """Zero the two with the lower scores of each four consecutive inputs; a last group of fewer than four stays."""
    layers = linears_of(model)
    sums = {} if calibration is None else squared_sums(model, calibration, layers, on_progress)
    for name, linear in layers.items():
        weight = matrix(linear)
        scores = _scores(weight, sums[name]) if sums else weight.abs()
        weight[smaller_two_of_four(scores)] = 0
    score = "|weight|" if calibration is None else "|weight| * ||input||"
    done = {"removed": f"2 of each 4 consecutive inputs of {len(layers)} linear layers, by {score}"}
    return done if calibration is None else {**done, "calibration": calibration.origin}


def smallest_of_all(scores: torch.Tensor, amount: float) -> torch.Tensor:
    """The share `amount` of the smallest scores, as a mask; among equal ones the first, so that the count is exact."""
    import torch

    flat = scores.reshape(-1)
    count = round(amount * len(flat))
    threshold = flat.kthvalue(count).values
    mask = flat < threshold
    ties = (flat == threshold).nonzero()[: count - int(mask.sum()), 0]
    mask[ties] = True
    return mask.reshape(scores.shape) if count else torch.zeros_like(scores, dtype=torch.bool)


def smallest_of_row(scores: torch.Tensor, amount: float) -> torch.Tensor:
    """In each row the share `amount` of the smallest scores, as a mask."""
    import torch

    order = scores.argsort(dim=1, stable=True)[:, : round(amount * scores.shape[1])]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)


def smaller_two_of_four(scores: torch.Tensor) -> torch.Tensor:
    """In each four consecutive columns the two smaller scores, as a mask.

    >>> import torch
    >>> smaller_two_of_four(torch.tensor([[3., 1., 2., 4., 9.]])).tolist()
    [[False, True, True, False, False]]
    """
    import torch

    rows, columns = scores.shape
    whole = columns // _GROUP * _GROUP
    grouped = scores[:, :whole].reshape(rows, -1, _GROUP)
    order = grouped.argsort(dim=2, stable=True)[:, :, : _GROUP // 2]
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask[:, :whole] = torch.zeros_like(grouped, dtype=torch.bool).scatter_(2, order, True).reshape(rows, whole)
    return mask


def _scores(weight: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
    return weight.abs() * squares.sqrt().float()


def _count_of(amount: float, size: int, what: str) -> None:
    """Refuse an amount that comes to none or all of the smallest layer's weights."""
    count = round(amount * size)
    if not 0 < count < size:
        outcome = "none" if count == 0 else "all"
        raise ConversionError(f"{amount:g} of {size} {what} is {amount * size:g}, which rounds to {outcome} of them")
