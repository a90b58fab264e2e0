"""Chooses the next token from logits: the most likely, or one drawn by temperature and top-p.

Randomness is an argument. Knows nothing of where logits come from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_agent.errors import RequestError

Logits = NDArray[np.float32]
_FIRST_CANDIDATES: Final = 64


def chooser(temperature: float, top_p: float, draw: np.random.Generator) -> Callable[[Logits], int]:
    """The rule for one answer; `temperature` 0 is greedy and draws nothing."""
    if temperature == 0:
        return greedy
    return lambda logits: sample(logits, temperature, top_p, draw)


def greedy(logits: Logits) -> int:
    """The most likely token; the lowest id among equals. Raises RequestError if the model gave no numbers."""
    token_id = int(logits.argmax())
    if not np.isfinite(logits[token_id]):  # argmax finds a NaN first
        raise RequestError("internal", f"the model gave {logits[token_id]} for token {token_id}: its graph is broken")
    return token_id


def sample(logits: Logits, temperature: float, top_p: float, draw: np.random.Generator) -> int:
    """Draw from softmax(logits / temperature), cut to the nucleus of `top_p`.

    The nucleus is the fewest most likely tokens whose probabilities reach `top_p`; among equals the lower ids are
    in it first (Holtzman et al., The Curious Case of Neural Text Degeneration, 2020). Raises RequestError.
    """
    ids, weights = nucleus(logits, temperature, top_p)
    cumulative = np.cumsum(weights)
    drawn = int(np.searchsorted(cumulative, draw.random() * cumulative[-1], side="right"))
    return int(ids[min(drawn, len(ids) - 1)])


def nucleus(logits: Logits, temperature: float, top_p: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids of the nucleus in ascending order, and their weights (not normalized, the largest is 1).

    Only as many tokens are sorted as the nucleus turns out to need.
    """
    most = logits[greedy(logits)]
    with np.errstate(over="ignore", under="ignore"):
        weights = np.exp((logits - most).astype(np.float64) / temperature)
    if top_p >= 1:
        return np.arange(len(weights)), weights
    wanted = top_p * weights.sum()
    descending, cumulative = _highest(weights, wanted)
    size = 1 + min(int(np.searchsorted(cumulative, wanted)), len(descending) - 1)
    least = descending[size - 1]
    above = np.flatnonzero(weights > least)
    equal = np.flatnonzero(weights == least)[: size - len(above)]
    ids = np.sort(np.concatenate((above, equal)))
    return ids, weights[ids]


def _highest(weights: NDArray[np.float64], wanted: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Enough of the highest weights, descending, that their running sum reaches `wanted`, and that sum."""
    count = _FIRST_CANDIDATES
    while True:
        count = min(count, len(weights))
        tail = len(weights) - count
        descending = np.sort(np.partition(weights, tail)[tail:] if tail else weights)[::-1]
        cumulative = np.cumsum(descending)
        if cumulative[-1] >= wanted or not tail:
            return descending, cumulative
        count *= 8
