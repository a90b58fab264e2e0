"""Percentiles that can be merged: values are counted in buckets whose width is a share of their value (DDSketch).

Masson, Rim and Lee, DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees, PVLDB 12(12),
2019. The buckets are those of the library `ddsketch`; only the counting is done for many groups and a million values at
a time. Any percentile is within `ACCURACY` of the exact one (as numpy interpolates it), also after any merging, but for
values nearer to zero than `SMALLEST`, which count as zero. Does not know what the values are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from ddsketch.mapping import LogarithmicMapping

from hub.report.history import Floats, Ints

ACCURACY: Final = 0.005
SMALLEST: Final = 1e-3
LARGEST: Final = 1e12
_MAPPING: Final = LogarithmicMapping(ACCURACY)
GAMMA: Final = float(_MAPPING.gamma)  # from one bucket's upper end to the next one's
_BEFORE: Final = _MAPPING.key(SMALLEST) - 1  # the library's key of the bucket that is numbered 0 here
_LAST: Final = _MAPPING.key(LARGEST) - _BEFORE
_VALUES: Final = np.array([0.0, *(_MAPPING.value(number + _BEFORE) for number in range(1, _LAST + 1))])
_DENSE_CELLS: Final = 4_000_000  # below this many cells, counting them all is faster than sorting


def buckets_of(values: Floats) -> Ints:
    """The number of each value's bucket: 0 for about zero, mirrored for negative ones, so that order is kept.

    >>> buckets_of(np.array([-5.0, -0.0001, 0.0, 0.001, 5.0])).tolist()
    [-852, 0, 0, 1, 852]
    """
    size = np.abs(values)
    is_zero = size < SMALLEST
    np.clip(size, SMALLEST, LARGEST, out=size)
    np.log2(size, out=size)
    size /= math.log2(GAMMA)
    numbers = np.ceil(size, out=size).astype(np.int64)
    numbers -= _BEFORE
    if is_zero.any():
        numbers[is_zero] = 0
    is_below = values < 0
    return np.where(is_below, -numbers, numbers) if is_below.any() else numbers


def values_of(buckets: Ints) -> Floats:
    """The value that stands for a bucket: within `ACCURACY` of all that it holds."""
    return np.asarray(np.sign(buckets) * _VALUES[np.abs(buckets)])


class Sketches(msgspec.Struct, frozen=True):
    """One sketch for each of `groups` groups: `count` values of `group` are in `bucket`; sorted by group and bucket."""

    groups: int
    group: Ints
    bucket: Ints
    count: Ints

    @classmethod
    def of(cls, buckets: Ints, codes: Ints, groups: int) -> Sketches:
        """Count values, given by their buckets and the groups that they belong to."""
        return cls._counted(buckets, codes, groups, None)

    def merged(self, into: Ints, groups: int) -> Sketches:
        """Several groups become one: group g goes into `into[g]`. As if all values had been counted there."""
        return self._counted(self.bucket, into[self.group], groups, self.count)

    def sizes(self) -> Ints:
        """How many values each group has."""
        return np.bincount(self.group, self.count, self.groups).astype(np.int64)

    def percentiles(self, shares: Sequence[float]) -> Floats:
        """(groups, shares): the value below which that share of a group's values lies; NaN where it has none.

        >>> whole = Sketches.of(buckets_of(np.array([10.0, 20.0, 30.0])), np.zeros(3, int), 2)
        >>> whole.percentiles((0.0, 0.5, 0.75)).round().tolist()
        [[10.0, 20.0, 25.0], [nan, nan, nan]]
        """
        sizes = self.sizes()
        rank = np.asarray(shares)[None, :] * np.maximum(sizes - 1, 0)[:, None]
        below = np.floor(rank).astype(np.int64)
        above = np.minimum(below + 1, np.maximum(sizes - 1, 0)[:, None])
        part = rank - below
        found = self.at(below) * (1 - part) + self.at(above) * part
        found[sizes == 0] = np.nan
        return np.asarray(found)

    def at(self, ranks: Ints) -> Floats:
        """(groups, n): the value of each rank, 0 being the least, in each group. Wrong for ranks that it has not."""
        if not len(self.count):
            return np.full(ranks.shape, np.nan)
        ends = np.cumsum(self.count)
        starts = np.concatenate(([0], np.cumsum(self.sizes())[:-1]))
        places = np.searchsorted(ends, starts[:, None] + ranks, side="right")
        return values_of(self.bucket[np.minimum(places, len(ends) - 1)])

    @classmethod
    def _counted(cls, buckets: Ints, codes: Ints, groups: int, counts: Ints | None) -> Sketches:
        if not len(buckets):
            nothing = np.zeros(0, np.int64)
            return cls(groups, nothing, nothing, nothing)
        least = int(buckets.min())
        width = int(buckets.max()) - least + 1
        cells = codes * width + (buckets - least)
        if groups * width <= _DENSE_CELLS:
            table = np.bincount(cells, counts, groups * width)
            filled = np.flatnonzero(table)
            found = table[filled].astype(np.int64)
        else:
            filled, place = np.unique(cells, return_inverse=True)
            found = np.bincount(place, counts).astype(np.int64)
        return cls(groups, filled // width, filled % width + least, found)
