"""Which bundles has a node loaded, which of them does it offer, and which are to go once their work is done? Pure.

A bundle that takes the place of another is offered from that moment on. The other one stays loaded: what waits for it,
and what hubs that have not heard of it yet send for it, is answered with it, until it is said to be needed no more.
"""

from __future__ import annotations

from collections.abc import Mapping

from hub import wire


class Loaded:
    """The bundles of one node, by id. `parallel` says how many questions each answers at once (default: 1)."""

    def __init__(self, served: Mapping[str, wire.ServedBundle], parallel: Mapping[str, int] | None = None) -> None:
        self.offered: Mapping[str, wire.ServedBundle] = dict(served)
        self.known: Mapping[str, wire.ServedBundle] = dict(served)  # also those that are gone: records name them
        self.parallel: Mapping[str, int] = {bundle: (parallel or {}).get(bundle, 1) for bundle in served}
        self._going: set[str] = set()

    def takes(self, bundle: str) -> bool:
        """Whether a question for it is answered."""
        return bundle in self.parallel and bundle not in self._going

    def costs(self, served: wire.ServedBundle) -> None:
        """A bundle costs more or less than it did, or runs on something else."""
        self.known = {**self.known, served.bundle: served}
        if served.bundle in self.offered:
            self.offered = {**self.offered, served.bundle: served}

    def offer(self, served: wire.ServedBundle, parallel: int, *, instead_of: str | None) -> None:
        """Offer a bundle that is loaded, in the place of another or beside all."""
        kept = {bundle: one for bundle, one in self.offered.items() if bundle != instead_of}
        self.offered = {**kept, served.bundle: served}
        self.known = {**self.known, served.bundle: served}
        self.parallel = {**self.parallel, served.bundle: parallel}
        self._going.discard(served.bundle)

    def withdraw(self, bundle: str) -> None:
        """Offer it no more."""
        self.offered = {name: one for name, one in self.offered.items() if name != bundle}

    def let_go(self, bundle: str) -> None:
        """It is needed no more, and takes nothing new."""
        self.withdraw(bundle)
        if bundle in self.parallel:
            self._going.add(bundle)

    @property
    def going(self) -> bool:
        """Whether a bundle is to be closed as soon as it can be."""
        return bool(self._going)

    def closed(self, busy: set[str]) -> list[str]:
        """Those to be closed now: nothing of theirs waits or runs. Each is told once."""
        closed = sorted(self._going - busy)
        self._going -= set(closed)
        self.parallel = {bundle: many for bundle, many in self.parallel.items() if bundle not in closed}
        return closed
