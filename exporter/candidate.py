"""What is tried, and which of it is taken?

`Built` is a graph on disk, `Candidate` what became of it, `choose` the rule. Does not know how a graph is made or
judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from edge_agent.bench import Cost
from edge_agent.manifest import Accuracy, Graph, Pass
from exporter.estimate import Estimate

ANSWER_PROMPT_TOKENS: Final = 37  # the question that an answer's latency is quoted for
ANSWER_NEW_TOKENS: Final = 96
EQUAL_SPEED: Final = 1.03  # within this factor two latencies are the same, and the smaller bundle wins


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """A graph on disk, `directory` / graph.path, and what was done to get it.

    `tensors` tells the precision of each group of tensors, for the manifest.
    """

    name: str
    precision: str
    directory: Path
    graph: Graph
    weights_bytes: int
    tensors: dict[str, str]
    passes: tuple[Pass, ...]
    zeros: float | None = None  # share of the matrices' weights, where a pass made some

    @property
    def path(self) -> Path:
        """The graph's file."""
        return self.directory / self.graph.path


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One graph that was tried. What was not measured is None, and `reason` says why.

    `cost` was measured on this machine; `estimate` is for the profile's device, where that is another one.
    """

    name: str
    accepted: bool
    reason: str
    precision: str = ""
    weights_bytes: int | None = None
    zeros: float | None = None
    accuracy: Accuracy | None = None
    cost: Cost | None = None
    estimate: Estimate | None = None

    @property
    def latency_ms(self) -> float:
        """Milliseconds of one answer of the quoted length, on the device that the bundle is for."""
        cost = self.estimate or self.cost
        return float("inf") if cost is None else answer_ms(cost)


def answer_ms(cost: Cost | Estimate) -> float:
    """Milliseconds from a prompt of 37 tokens to the last of 96 new ones; the first comes with the prefill.

    An encoder has no new tokens: its decode costs nothing.
    """
    return (
        cost.fixed_ms
        + cost.prefill_ms_per_token * ANSWER_PROMPT_TOKENS
        + cost.decode_ms_per_token * (ANSWER_NEW_TOKENS - 1)
    )


def choose(candidates: Sequence[Candidate], *, by_speed: bool = True) -> Candidate | None:
    """The accepted candidate that becomes the bundle; None if none is accepted.

    `by_speed`: the fastest; of those within 3% of it, the smallest. Else, for candidates of one precision, which are
    equally fast: the most truthful, so that noise in the timing never decides.
    """
    accepted = [one for one in candidates if one.accepted]
    if not accepted:
        return None
    if not by_speed:
        return min(accepted, key=_untruth)
    fastest_ms = min(one.latency_ms for one in accepted)
    equals = [one for one in accepted if one.latency_ms <= fastest_ms * EQUAL_SPEED]
    return min(equals, key=lambda one: (one.weights_bytes or 0, one.latency_ms))


def _untruth(candidate: Candidate) -> tuple[float, float]:
    accuracy = candidate.accuracy
    if accuracy is None:
        return float("inf"), float("inf")
    return (accuracy.drop_points if accuracy.kl is None else accuracy.kl), accuracy.drop_points
