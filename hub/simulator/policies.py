"""How would others have chosen? Published policies as rankings of the same candidates that the router looks at.

Each sees what its authors let it see, and nothing more: the number of questions in flight that the hub counts, the
delays that it has seen, probes. Ties are broken by chance, as they are where nobody thinks of them. Knows nothing of
how a fleet is simulated, but for the oracle, which is told everything.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hub.objective import fleet_delay
from hub.router import Candidates, Ranking, least_delay
from hub.simulator.truth import Truth

Series = NDArray[np.float64]
OURS: Final = {"least-delay-question": least_delay, "least-delay-fleet": fleet_delay}
PEERS: Final = (*("random", "round-robin", "least-inflight", "p2c", "ewma-latency", "peak-ewma", "prequal", "oracle"),)
POLICIES: Final = ("least-delay", *OURS, *PEERS)


class Policy(Protocol):
    """A ranking that hears of answers, and may ask to look at nodes.

    `admits` says whether the hub refuses what would be late, as it does in earnest; published policies take everything.
    """

    @property
    def admits(self) -> bool: ...

    def __call__(self, candidates: Candidates) -> Series:
        """The least is chosen."""
        ...

    def answered(self, node: str, delay_ms: float, now: float) -> None:
        """An answer came from `node`, so long after its question was sent."""
        ...

    def wants_probed(self) -> Sequence[str]:
        """The nodes to be looked at with the question that was just sent."""
        ...

    def draw(self) -> float:
        """A number from 0 to 1: whether the hub may send a question to learn of a node."""
        ...

    def probed(self, node: str, in_flight: int, latency_ms: float, now: float) -> None:
        """What such a look has found."""
        ...


class Deaf:
    """Most policies hear of nothing, and choose what they choose."""

    admits = False

    def draw(self) -> float:
        """No question is sent to learn."""
        return 1.0

    def answered(self, node: str, delay_ms: float, now: float) -> None:
        """Nothing to learn."""

    def wants_probed(self) -> Sequence[str]:
        """No look at any node."""
        return ()

    def probed(self, node: str, in_flight: int, latency_ms: float, now: float) -> None:
        """Nobody asked."""


class Ours(Deaf):
    """What the hub does."""

    admits = True

    def __init__(self, ranking: Ranking, chance: np.random.Generator) -> None:
        self._ranking, self._chance = ranking, chance

    def draw(self) -> float:
        """As the hub draws."""
        return float(self._chance.random())

    def __call__(self, candidates: Candidates) -> Series:
        return self._ranking(candidates)


class Random(Deaf):
    """Any."""

    def __init__(self, draw: np.random.Generator) -> None:
        self._draw = draw

    def __call__(self, candidates: Candidates) -> Series:
        return _only(int(self._draw.integers(len(candidates.rows))), candidates)


class RoundRobin(Deaf):
    """The next by name."""

    def __init__(self) -> None:
        self._last = -1

    def __call__(self, candidates: Candidates) -> Series:
        ranks = candidates.fleet.rank()[candidates.rows]
        later = np.flatnonzero(ranks > self._last)
        place = int(later[ranks[later].argmin()]) if len(later) else int(ranks.argmin())
        self._last = int(ranks[place])
        return _only(place, candidates)


class LeastInFlight(Deaf):
    """The one with the fewest questions."""

    def __init__(self, draw: np.random.Generator) -> None:
        self._draw = draw

    def __call__(self, candidates: Candidates) -> Series:
        return _in_flight(candidates) + _ties(self._draw, len(candidates.rows))


class PowerOfTwo(Deaf):
    """Of two at random the one with fewer questions (Mitzenmacher, 2001)."""

    def __init__(self, draw: np.random.Generator) -> None:
        self._draw = draw

    def __call__(self, candidates: Candidates) -> Series:
        count = len(candidates.rows)
        pair = self._draw.choice(count, min(2, count), replace=False)
        return _only(int(pair[_in_flight(candidates)[pair].argmin()]), candidates)


class EwmaLatency(Deaf):
    """The least mean of recent delays, as LiteLLM's latency-based routing takes of ten; unknown ones first."""

    _REMEMBERED: Final = 10

    def __init__(self, draw: np.random.Generator) -> None:
        self._draw = draw
        self._means: dict[str, float] = {}

    def __call__(self, candidates: Candidates) -> Series:
        names = [candidates.fleet.label(int(row))[0] for row in candidates.rows]
        return np.array([self._means.get(name, 0.0) for name in names]) + _ties(self._draw, len(names))

    def answered(self, node: str, delay_ms: float, now: float) -> None:
        """One more delay."""
        mean = self._means.get(node, delay_ms)
        self._means[node] = mean + (delay_ms - mean) / self._REMEMBERED


class PeakEwma(Deaf):
    """Finagle's: a cost that jumps to a longer delay and comes down in 10 s, times those in flight and one.

    Finagle lets a cost fall towards 0 where nothing is heard, too: with answers that take seconds, it then asks its
    slowest nodes again and again. Without that it does better here, so without that it is compared.
    """

    _TAU_S: Final = 10.0
    _PENALTY: Final = 1e12  # of a node that was asked and has not answered yet

    def __init__(self, draw: np.random.Generator) -> None:
        self._draw = draw
        self._costs: dict[str, tuple[float, float]] = {}

    def __call__(self, candidates: Candidates) -> Series:
        names = [candidates.fleet.label(int(row))[0] for row in candidates.rows]
        costs = np.array([self._costs.get(name, (0.0, 0.0))[0] for name in names])
        in_flight = _in_flight(candidates)
        loads = np.where((costs == 0.0) & (in_flight > 0), self._PENALTY + in_flight, costs * (in_flight + 1))
        return loads + _ties(self._draw, len(names))

    def answered(self, node: str, delay_ms: float, now: float) -> None:
        """Up at once, down slowly."""
        known = self._costs.get(node)
        if known is not None and delay_ms < known[0]:
            keep = math.exp(-(now - known[1]) / self._TAU_S)
            delay_ms = known[0] * keep + delay_ms * (1 - keep)
        self._costs[node] = delay_ms, now


class _Look(NamedTuple):
    node: str
    in_flight: int
    latency_ms: float
    at_s: float


class Prequal(Deaf):
    """Probes tell questions in flight and latency. Those below the 0.84 quantile of in-flight are cold: of them the
    least latency, else the least in flight (Wydrowski et al., NSDI 2024). Three probes for a question, a pool of 16,
    none older than a second, none used twice.
    """

    _PROBES: Final = 3
    _POOL: Final = 16
    _MOST_AGE_S: Final = 1.0
    _HOT: Final = 0.84

    def __init__(self, draw: np.random.Generator, nodes: Sequence[str]) -> None:
        self._draw = draw
        self._nodes = list(nodes)
        self._pool: deque[_Look] = deque(maxlen=self._POOL)
        self._seen: deque[int] = deque(maxlen=256)

    def __call__(self, candidates: Candidates) -> Series:
        places = {candidates.fleet.label(int(row))[0]: place for place, row in enumerate(candidates.rows)}
        fresh = [look for look in self._pool if candidates.now - look.at_s <= self._MOST_AGE_S and look.node in places]
        if not fresh:
            return _only(int(self._draw.integers(len(places))), candidates)
        hot = float(np.quantile(self._seen, self._HOT))
        cold = [look for look in fresh if look.in_flight <= hot]
        best = min(cold, key=lambda look: look.latency_ms) if cold else min(fresh, key=lambda look: look.in_flight)
        self._pool.remove(best)
        return _only(places[best.node], candidates)

    def wants_probed(self) -> Sequence[str]:
        """Three at random."""
        chosen = self._draw.choice(len(self._nodes), min(self._PROBES, len(self._nodes)), replace=False)
        return [self._nodes[number] for number in chosen]

    def probed(self, node: str, in_flight: int, latency_ms: float, now: float) -> None:
        """Into the pool, the oldest out."""
        self._pool.append(_Look(node, in_flight, latency_ms, now))
        self._seen.append(in_flight)


class Oracle(Deaf):
    """Knows every length, cost and queue as it is, and gives each question the node that answers it soonest."""

    def __init__(self, truth: Truth, nodes: Sequence[str]) -> None:
        self._truth = truth
        self._number = {name: number for number, name in enumerate(nodes)}

    def __call__(self, candidates: Candidates) -> Series:
        delays = self._truth.delays_ms(int(candidates.question.id), candidates.now)
        numbers = [self._number[candidates.fleet.label(int(row))[0]] for row in candidates.rows]
        return delays[numbers]


def open_policy(name: str, draw: np.random.Generator, truth: Truth, nodes: Sequence[str], default: str) -> Policy:
    """The policy of one run; `default` is the objective that `least-delay` stands for."""
    if name == "least-delay":
        name = f"least-delay-{default}"
    if name in OURS:
        return Ours(OURS[name], draw)
    makers: dict[str, Callable[[], Policy]] = {
        "random": lambda: Random(draw),
        "round-robin": RoundRobin,
        "least-inflight": lambda: LeastInFlight(draw),
        "p2c": lambda: PowerOfTwo(draw),
        "ewma-latency": lambda: EwmaLatency(draw),
        "peak-ewma": lambda: PeakEwma(draw),
        "prequal": lambda: Prequal(draw, nodes),
        "oracle": lambda: Oracle(truth, nodes),
    }
    return makers[name]()


def _only(place: int, candidates: Candidates) -> Series:
    scores = np.ones(len(candidates.rows))
    scores[place] = 0.0
    return scores


def _in_flight(candidates: Candidates) -> Series:
    return candidates.picked["in_flight"]


def _ties(draw: np.random.Generator, count: int) -> Series:
    return draw.random(count) * 1e-6
