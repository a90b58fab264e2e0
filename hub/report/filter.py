"""Which questions is a report about?

The store may say the same in SQL; `mask` says it of a history that is at hand. Times are the wall clock's.
"""

from __future__ import annotations

import msgspec
import numpy as np

from hub.report.history import History, Mask, Names


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Questions that ended in `[since_s, until_s)`, and of these only those with one of the names; empty is all.

    The name of what a question never had (the node of one that found none) is ''.
    """

    since_s: float | None = None
    until_s: float | None = None
    nodes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()

    def mask(self, history: History) -> Mask:
        """Which questions of `history` these are."""
        wanted = np.ones(len(history), bool)
        if self.since_s is not None:
            wanted &= history.wall_time_s >= self.since_s
        if self.until_s is not None:
            wanted &= history.wall_time_s < self.until_s
        columns = (
            *((history.node, self.nodes), (history.device, self.devices)),
            *((history.model, self.models), (history.outcome, self.outcomes)),
        )
        for column, names in columns:
            if names:
                wanted &= _any_of(column, names)
        return wanted

    def earlier(self, by_s: float) -> Filter:
        """The same questions in a window that began and ended `by_s` before this one.

        >>> Filter(since_s=100.0, until_s=160.0, nodes=("a",)).earlier(60.0)
        Filter(since_s=40.0, until_s=100.0, nodes=('a',), devices=(), models=(), outcomes=())
        """
        moved = {
            name: None if moment_s is None else moment_s - by_s
            for name, moment_s in (("since_s", self.since_s), ("until_s", self.until_s))
        }
        return msgspec.structs.replace(self, **moved)


def _any_of(column: Names, names: tuple[str, ...]) -> Mask:
    wanted = [code for code, name in enumerate(column.names) if name in names]
    return np.isin(column.codes, wanted)
