"""Which questions is a report about? A choice by time, node, device, model and outcome.

Values only: columns are masked here, and the store asks its database the same.
"""

from __future__ import annotations

import msgspec
import numpy as np

from hub.report.history import History, Mask

FIELDS = {"nodes": "node", "devices": "device", "models": "model", "outcomes": "outcome"}  # and their columns


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Questions that ended from `since_s` (wall clock) on and before `until_s`; of these names, where any are given."""

    since_s: float | None = None
    until_s: float | None = None
    nodes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()

    def mask(self, history: History) -> Mask:
        """Which questions are chosen."""
        chosen = np.ones(len(history), bool)
        if self.since_s is not None:
            chosen &= history.wall_time_s >= self.since_s
        if self.until_s is not None:
            chosen &= history.wall_time_s < self.until_s
        for field, column in FIELDS.items():
            if wanted := getattr(self, field):
                names = getattr(history, column)
                chosen &= np.any([names.are(name) for name in wanted], axis=0)
        return chosen

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
