"""How are the delays distributed? Counts in bars that are equally wide on a logarithmic scale, exact.

Does not know how bars are drawn.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from hub.report.history import Floats

# Preferred numbers (IEC 60063, and 1-2-5), the most bars a decade first: as fine as there is room for.
_STEPS: Final = (
    (1.0, 1.2, 1.5, 1.8, 2.2, 2.7, 3.3, 3.9, 4.7, 5.6, 6.8, 8.2),
    (1.0, 1.5, 2.2, 3.3, 4.7, 6.8),
    (1.0, 2.0, 5.0),
    (1.0,),
)
_MOST_BARS: Final = 24
_DECADES: Final = range(-2, 13)


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """Answers with `from_ms <= delay < to_ms`; the first bar of all begins at 0, the last one ends at 1e13."""

    from_ms: float
    to_ms: float
    count: int


def histogram(delay_ms: Floats) -> tuple[Bar, ...]:
    """Bars from the first to the last that is not empty: as many as 24, unless more decades than that are filled.

    >>> [(bar.from_ms, bar.to_ms, bar.count) for bar in histogram(np.array([10.0, 11.0, 16.0]))]
    [(10.0, 12.0, 2), (12.0, 15.0, 0), (15.0, 18.0, 1)]
    """
    if not len(delay_ms):
        return ()
    bars: tuple[Bar, ...] = ()
    for steps in _STEPS:
        bars = _bars(delay_ms, steps)
        if len(bars) <= _MOST_BARS:
            break
    return bars


def _bars(delay_ms: Floats, steps: tuple[float, ...]) -> tuple[Bar, ...]:
    edges = [0.0, *(round(step * 10.0**power, 6) for power in _DECADES for step in steps), 1e13]
    places = np.searchsorted(edges, np.clip(delay_ms, 0.0, 9e12), side="right") - 1
    counts = np.bincount(places, minlength=len(edges) - 1)
    filled = np.flatnonzero(counts)
    return tuple(
        Bar(from_ms=edges[place], to_ms=edges[place + 1], count=int(counts[place]))
        for place in range(int(filled[0]), int(filled[-1]) + 1)
    )
