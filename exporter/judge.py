"""May a built graph become the bundle? Does it fit, is it truthful, is it fast enough?

Each graph is run in the runtime that will serve it; what is said of another device than this one is an estimate, and is
called so. Does not know how a graph was made, nor which of several accepted ones is taken.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

import msgspec

from device_profiles.profile import Profile
from edge_agent.bench import Cost, cache_bytes, read_bandwidth
from edge_agent.manifest import Accuracy, Graph
from edge_agent.onnx_file import read_onnx
from exporter import machine
from exporter.candidate import ANSWER_NEW_TOKENS, ANSWER_PROMPT_TOKENS, Built, Candidate, answer_ms
from exporter.estimate import Estimate, estimate
from exporter.memory import check_memory
from exporter.order import Order


class Work(Protocol):
    """What a judge needs of `Generation` and `Encoding`."""

    def verify(self, built: Built) -> Accuracy:
        """How truthful it is."""
        ...

    def measure(self, built: Built) -> Cost:
        """What an answer costs on this machine."""
        ...


class Judge:
    """Judges graphs for one order; a graph that was judged before is not run again.

    `where` names this machine, once something was measured on it.
    """

    def __init__(self, order: Order, profile: Profile, work: Work, context: int) -> None:
        self._order, self._profile, self._work = order, profile, work
        self._context = context
        self._known: dict[Path, Candidate] = {}
        self._bytes_per_s: float | None = None
        self.where = ""

    def __call__(self, built: Built) -> Candidate:
        if built.path not in self._known:
            self._known[built.path] = self._judged(built)
        return msgspec.structs.replace(self._known[built.path], name=built.name)

    def again(self, built: Built) -> None:
        """Time a judged graph once more, some time later, and keep the better of both times: noise only ever adds.

        So one slow moment of a shared machine does not decide which candidate is the fastest.
        """
        known = self._known[built.path]
        cost = self._work.measure(built)
        if known.cost is not None and known.accuracy is not None and answer_ms(cost) < answer_ms(known.cost):
            self._known[built.path] = self._verdict(built, known.accuracy, cost)

    def _judged(self, built: Built) -> Candidate:
        accuracy, cost = self._work.verify(built), self._work.measure(built)
        self.where = machine.description(cost.threads)
        return self._verdict(built, accuracy, cost)

    def _verdict(self, built: Built, accuracy: Accuracy, cost: Cost) -> Candidate:
        candidate = Candidate(
            name=built.name,
            precision=built.precision,
            accepted=False,
            reason="",
            weights_bytes=built.weights_bytes,
            zeros=built.zeros,
            accuracy=accuracy,
            cost=cost,
            estimate=self._elsewhere(built, cost),
        )
        reasons = [self._too_large(built), _untruthful(accuracy), self._too_slow(candidate)]
        said = "; ".join(why for why in reasons if why is not None)
        return msgspec.structs.replace(candidate, accepted=not said, reason=said or _kept(accuracy))

    def _too_large(self, built: Built) -> str | None:
        return check_memory(
            self._profile,
            parameters=0,
            weight_bits=0,
            weights_bytes=built.weights_bytes,
            cache=built.graph.cache,
            context=self._context,
            engine_build=self._order.engine != "none" and "tensorrt" in self._profile.runtimes,
        ).refusal

    def _elsewhere(self, built: Built, cost: Cost) -> Estimate | None:
        """What it would cost on the profile's device; None where that is this machine, or nothing is known of it."""
        if machine.stands_for(self._profile):
            return None
        if self._bytes_per_s is None:
            self._bytes_per_s = read_bandwidth(cost.threads)
        told = estimate(
            cost,
            read_bytes_per_token=read_bytes_per_token(built.path, built.graph),
            here_bytes_per_s=self._bytes_per_s,
            profile=self._profile,
        )
        return told if isinstance(told, Estimate) else None

    def _too_slow(self, candidate: Candidate) -> str | None:
        target_ms = self._order.target_latency_ms
        if target_ms is None or candidate.latency_ms <= target_ms:
            return None
        kind = "measured" if candidate.estimate is None else "estimated"
        return f"{kind} {candidate.latency_ms:.0f} ms an answer exceed {target_ms:g}"


def read_bytes_per_token(path: Path, graph: Graph) -> int:
    """Bytes of weights and cache that one token of an answer of the quoted length reads."""
    positions = ANSWER_PROMPT_TOKENS + ANSWER_NEW_TOKENS // 2
    return read_onnx(path).bytes_per_token + (0 if graph.cache is None else cache_bytes(graph.cache, positions))


def accepted(accuracy: Accuracy) -> bool:
    """The gate: even the upper end of the interval must be inside the budget, and what was computed be numbers."""
    numbers = all(math.isfinite(one) for one in (accuracy.kl, accuracy.perplexity, accuracy.cosine) if one is not None)
    return numbers and accuracy.drop_bound_points <= accuracy.budget_points


def _untruthful(accuracy: Accuracy) -> str | None:
    if accepted(accuracy):
        return None
    if accuracy.drop_bound_points <= accuracy.budget_points:
        return "it gives numbers that are not finite"
    return f"drop of at most {accuracy.drop_bound_points:.2f} points exceeds {accuracy.budget_points:g}"


def _kept(accuracy: Accuracy) -> str:
    kept = f"drop of at most {accuracy.drop_bound_points:.2f} points inside {accuracy.budget_points:g}"
    if accuracy.is_anomaly:
        return f"{kept}; ANOMALY: better than the reference by {-accuracy.drop_points:.2f} points, beyond chance"
    return kept
