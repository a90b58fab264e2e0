"""What does the end of a question say of its bundle, to whoever deploys bundles?

That it failed by the bundle's fault, or how long computing it took beside what it should have taken. That is what the
bundle was said to cost when it was offered first: a cost that is learned along would never show that it is slower.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from edge_agent import price
from hub import wire


class Deployments(Protocol):
    """Whoever brings bundles to this node. Called in the loop's thread; returns at once."""

    def desired(self, desired: wire.Desired) -> None:
        """What this node is to serve, as it comes from a hub."""
        ...

    def question_ended(self, bundle: str, failed: bool, predicted_ms: float, actual_ms: float, beside: float) -> None:
        """An answer was computed, beside so many others on average; or failed by the bundle's fault, without times."""
        ...


class Evidence:
    """Tells `deployments`, once there are any; `served` are the bundles that are offered at the start."""

    def __init__(self, served: Mapping[str, wire.ServedBundle]) -> None:
        self.deployments: Deployments | None = None
        self._priced = dict(served)

    def offered(self, served: wire.ServedBundle) -> None:
        """A bundle is offered first, at this price."""
        self._priced[served.bundle] = served

    def failed(self, bundle: str) -> None:
        """By its own fault."""
        if self.deployments is not None and bundle in self._priced:
            self.deployments.question_ended(bundle, True, 0.0, 0.0, 0.0)

    def computed(self, answer: wire.Answer, beside: float) -> None:
        """An answer was computed; what it should have taken is without the others that were computed `beside` it."""
        priced = self._priced.get(answer.bundle)
        if self.deployments is None or priced is None:
            return
        predicted_ms = price.predicted_ms(priced, answer.tokens)
        self.deployments.question_ended(answer.bundle, False, predicted_ms, answer.timing_ms.compute, beside)
