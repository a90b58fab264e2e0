"""How much longer will an answer be, given how long it is already? Learned from answers and what was expected of them.

Lengths of answers have heavy tails: a mean is a poor guess of what is left of one that has run for long (the mean
residual life of the distribution is a better one). Kept as decayed counts of `length / expected length` in bins whose
widths grow, so that one distribution serves devices and tasks of all lengths. Knows nothing of nodes or of time.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

import numpy as np
from numpy.typing import NDArray

Series = NDArray[np.float64]
_KEEP: Final = 0.999  # of what was counted, for each new answer
_EDGES: Final = np.concatenate([[0.0], np.geomspace(0.05, 20.0, 60)])  # of the ratio; the last bin has no end
_EDGES_LIST: Final = [float(edge) for edge in _EDGES]
_PRIOR: Final = 10.0  # answers, before any was seen
_PRIOR_SIGMA: Final = 0.7  # of a lognormal ratio with mean 1
_RENEW_EVERY: Final = 16  # answers


class Tail:
    """The distribution, and what is left by it.

    >>> tail = Tail()
    >>> for ratio in (0.5, 1.0, 1.5) * 500: tail.learn(ratio)
    >>> [round(float(left), 1) for left in tail.left(np.array([0.0, 0.75, 1.2]))]
    [1.0, 0.5, 0.3]
    """

    def __init__(self) -> None:
        logs = np.log(np.maximum(_EDGES[1:], 1e-9))
        below = _normal_cdf((logs + _PRIOR_SIGMA**2 / 2) / _PRIOR_SIGMA)
        self._counts: Series = _PRIOR * np.diff(np.concatenate([[0.0], below, [1.0]]))
        self._sums: Series = self._counts * np.concatenate([(_EDGES[:-1] + _EDGES[1:]) / 2, [_EDGES[-1]]])
        self._whole: Series = _whole(self._counts, self._sums)
        self._learned = 0

    def learn(self, ratio: float) -> None:
        """An answer had `ratio` times the tokens that were expected."""
        place = int(_EDGES.searchsorted(ratio, side="right")) - 1
        self._counts *= _KEEP
        self._sums *= _KEEP
        self._counts[place] += 1.0
        self._sums[place] += ratio
        self._learned += 1
        if self._learned % _RENEW_EVERY == 0:
            self._whole = _whole(self._counts, self._sums)

    def left_of(self, ratio: float) -> float:
        """`left` of one answer."""
        return max(float(self._whole[bisect_right(_EDGES_LIST, ratio) - 1]) - ratio, 0.0)

    def left(self, ratios: Series) -> Series:
        """What is left in the mean, in expected lengths, of answers that have reached `ratios` of theirs."""
        bins = _EDGES.searchsorted(ratios, side="right") - 1
        left: Series = np.maximum(self._whole[bins] - ratios, 0.0)
        return left


def _whole(counts: Series, sums: Series) -> Series:
    """`E[ratio | ratio > edge]` for the lower edge of each bin."""
    more, sum_of_more = np.cumsum(counts[::-1])[::-1], np.cumsum(sums[::-1])[::-1]
    whole: Series = sum_of_more / np.maximum(more, 1e-300)
    floored: Series = np.maximum(whole, _EDGES)
    return floored


def _normal_cdf(values: Series) -> Series:
    from statistics import NormalDist

    return np.array([NormalDist().cdf(float(value)) for value in values])
