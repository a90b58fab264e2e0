"""May a built graph become the bundle? Does it fit, is it truthful, is it fast enough?

Each graph is run in the runtime that will serve it; what is said of another device than this one is an estimate, and is
called so. Does not know how a graph was made, nor which of several accepted ones is taken.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from device_profiles.profile import Profile
from edge_agent.bench import Cost
from edge_agent.manifest import Accuracy
from exporter import machine
from exporter.candidate import Built, Candidate
from exporter.order import Order
from exporter.verify import accepted


class Work(Protocol):
    """What a judge needs of `Generation` and `Encoding`."""

    def verify(self, built: Built) -> Accuracy:
        """How truthful it is."""
        ...

    def measure(self, built: Built) -> Cost:
        """What an answer costs on this machine."""
        ...


class Judge:
    """Judges graphs for one order; a graph that was judged before is not run again."""

    def __init__(self, order: Order, profile: Profile, work: Work) -> None:
        self._order, self._profile, self._work = order, profile, work
        self._known: dict[Path, Candidate] = {}
        self.where = ""

    def __call__(self, built: Built) -> Candidate:
        if built.path not in self._known:
            self._known[built.path] = self._judged(built)
        return msgspec.structs.replace(self._known[built.path], name=built.name)

    def _judged(self, built: Built) -> Candidate:
        accuracy = self._work.verify(built)
        cost = self._work.measure(built)
        self.where = machine.description(cost.threads)
        candidate = Candidate(
            name=built.name,
            precision=built.precision,
            accepted=False,
            reason="",
            weights_bytes=built.weights_bytes,
            accuracy=accuracy,
            cost=cost,
        )
        reasons = [*self._too_large(built), *self._untruthful(accuracy), *self._too_slow(candidate)]
        kept = f"drop of at most {accuracy.drop_bound_points:.2f} points inside {accuracy.budget_points:g}"
        return msgspec.structs.replace(candidate, accepted=not reasons, reason="; ".join(reasons) or kept)

    def _too_large(self, built: Built) -> list[str]:
        return []

    def _untruthful(self, accuracy: Accuracy) -> list[str]:
        if accepted(accuracy):
            return []
        return [f"drop of at most {accuracy.drop_bound_points:.2f} points exceeds {accuracy.budget_points:g}"]

    def _too_slow(self, candidate: Candidate) -> list[str]:
        target_ms = self._order.target_latency_ms
        if target_ms is None or candidate.latency_ms <= target_ms:
            return []
        kind = "measured" if candidate.estimate is None else "estimated"
        return [f"{kind} {candidate.latency_ms:.0f} ms an answer exceed {target_ms:g}"]
