"""What got slower or faster between two windows, beyond noise, and in which stage?

Delays that follow on each other are alike: one slow minute makes a hundred slow answers. So whole blocks of
consecutive questions are resampled, not questions (block bootstrap: Carlstein, Annals of Statistics 14(3), 1986;
Künsch, Annals of Statistics 17(3), 1989). Each block is reduced to its count, its sums and its sketch; a resample is
then a sum of blocks, and a thousand of them are one product of matrices. The randomness is passed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import msgspec
import numpy as np

from hub.report.groups import NO_NAME
from hub.report.history import Floats, History, Ints, Names
from hub.report.sketch import ACCURACY, GAMMA, buckets_of, values_of
from hub.report.timing import STAGES, Timing

CONFIDENCE: Final = 0.99
RESAMPLES: Final = 1000
BLOCKS: Final = 50
LEAST_ANSWERS: Final = 200  # of each window: four in a block
MOST_GROUPS: Final = 40  # of each kind, the busiest

Kind = Literal["fleet", "node", "model", "device"]
Verdict = Literal["slower", "faster", "same"]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A figure `before` and `after`, milliseconds; `change` is their difference, and lies in `[low, high]` with 99%."""

    before: float
    after: float
    change: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """Beyond noise: the interval does not hold 0, and the change is more than percentiles can be off."""
        if self.low <= 0.0 <= self.high or abs(self.change) <= 2 * ACCURACY * max(abs(self.before), abs(self.after)):
            return "same"
        return "slower" if self.change > 0 else "faster"


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One node, model or device (or the fleet) in two windows. `stage` has changed most, in the mean's direction."""

    kind: Kind
    name: str
    answers_before: int
    answers_after: int
    mean: Change
    p50: Change
    p95: Change
    stages: dict[str, Change]
    stage: str
    verdict: Verdict
    what: tuple[str, ...]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """All that was compared. Of `comparisons`, about `by_chance` would stand out though nothing has changed."""

    since: str
    until: str
    questions: int
    confidence: float
    comparisons: int
    by_chance: float
    too_few: int
    left_out: int
    groups: tuple[Compared, ...]


class Blocks(msgspec.Struct, frozen=True, kw_only=True):
    """Some answers, cut into blocks of consecutive ones: `answers` (blocks,), `delay_ms` and stages sums of each.

    `filled` (blocks, buckets) counts the delays of each bucket in `buckets`.
    """

    answers: Floats
    sums_ms: dict[str, Floats]
    buckets: Ints
    filled: Floats


def compare(before: Timing, after: Timing, *, since: str, until: str, draw: np.random.Generator) -> Comparison:
    """The fleet, and the busiest nodes, models and devices that both windows have, one by one."""
    pairs = list(_pairs(before, after))
    enough = [pair for pair in pairs if min(len(pair[2]), len(pair[3])) >= LEAST_ANSWERS]
    chosen = [pair for kind in ("fleet", "node", "model", "device") for pair in _busiest(enough, kind)]
    groups = tuple(
        _compared(kind, name, blocks_of(before, old), blocks_of(after, new), draw) for kind, name, old, new in chosen
    )
    comparisons = 3 * len(groups)
    return Comparison(
        since=since,
        until=until,
        questions=len(before.history),
        confidence=CONFIDENCE,
        comparisons=comparisons,
        by_chance=round(comparisons * (1 - CONFIDENCE), 2),
        too_few=len(pairs) - len(enough),
        left_out=len(enough) - len(chosen),
        groups=groups,
    )


def blocks_of(timing: Timing, places: Ints) -> Blocks:
    """The answers at `places` (into `timing.at`, in time order) in at most 50 blocks, as equal as can be."""
    count = min(BLOCKS, len(places))
    block = np.arange(len(places)) * count // len(places)
    delay_ms = timing.delay_ms[places]
    columns: dict[str, Floats] = {
        "delay": delay_ms,
        **{name: column[places] for name, column in timing.stages_ms.items()},
    }
    buckets, place = np.unique(buckets_of(delay_ms), return_inverse=True)
    filled = np.bincount(block * len(buckets) + place, minlength=count * len(buckets))
    return Blocks(
        answers=np.bincount(block, minlength=count).astype(np.float64),
        sums_ms={name: np.bincount(block, column, count).astype(np.float64) for name, column in columns.items()},
        buckets=buckets,
        filled=filled.reshape(count, len(buckets)).astype(np.float64),
    )


def _compared(kind: Kind, name: str, before: Blocks, after: Blocks, draw: np.random.Generator) -> Compared:
    old, new = _estimates(before, draw), _estimates(after, draw)
    changes = {figure: _change(old[figure], new[figure]) for figure in old}
    stages = {stage: changes[stage] for stage in STAGES}
    direction = 1.0 if changes["mean"].change >= 0 else -1.0
    figures = {figure: changes[figure] for figure in ("mean", "p50", "p95")}
    beyond = [change.verdict for change in figures.values() if change.verdict != "same"]
    return Compared(
        kind=kind,
        name=name,
        answers_before=int(before.answers.sum()),
        answers_after=int(after.answers.sum()),
        **figures,
        stages=stages,
        stage=max(stages, key=lambda stage: direction * stages[stage].change),
        verdict=beyond[0] if beyond else "same",
        what=tuple(f"{figure} {change.verdict}" for figure, change in figures.items() if change.verdict != "same"),
    )


def _change(before: Floats, after: Floats) -> Change:
    """From estimates, the first one of all answers, the others of resamples."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(after[1:] - before[1:], [tail, 1 - tail])
    old, new = round(float(before[0]), 3), round(float(after[0]), 3)
    change = round(float(after[0] - before[0]), 3)
    return Change(before=old, after=new, change=change, low=round(float(low), 3), high=round(float(high), 3))


def _estimates(blocks: Blocks, draw: np.random.Generator) -> dict[str, Floats]:
    """By figure, its value over all answers, then over each resample of as many blocks."""
    count = len(blocks.answers)
    weights = np.ones((RESAMPLES + 1, count))
    weights[1:] = draw.multinomial(count, np.full(count, 1 / count), RESAMPLES)
    answers = weights @ blocks.answers
    means = {name: weights @ sums_ms / answers for name, sums_ms in blocks.sums_ms.items()}
    heaped = np.cumsum(weights @ blocks.filled, axis=1)
    found = {
        "mean": means.pop("delay"),
        "p50": _percentile(blocks, heaped, 0.5),
        "p95": _percentile(blocks, heaped, 0.95),
    }
    return {**found, **means}


def _percentile(blocks: Blocks, heaped: Floats, share: float) -> Floats:
    """Of each row. Inside a bucket the values are taken as spread evenly, lest all resamples fall on one value."""
    wanted = share * heaped[:, -1]
    place = np.argmax(heaped >= wanted[:, None] - 1e-9, axis=1)
    row = np.arange(len(heaped))
    end = heaped[row, place]
    start = np.where(place > 0, heaped[row, np.maximum(place - 1, 0)], 0.0)
    part = (wanted - start) / np.maximum(end - start, 1.0)
    middle = values_of(blocks.buckets)[place]
    return np.asarray(middle * GAMMA ** np.where(middle >= 0, part - 0.5, 0.5 - part))


# --- which answers are compared with which --------------------------------------------------------------

Pair = tuple[Kind, str, Ints, Ints]  # kind, name, and the places of its answers before and after


def _pairs(before: Timing, after: Timing) -> Iterator[Pair]:
    """The fleet, and what of each kind has answers in both windows."""
    old, new = _in_time_order(before), _in_time_order(after)
    yield "fleet", "", old, new
    for kind in ("node", "model", "device"):
        places_before = _by_name(_names(before.history, kind), before.at, old)
        places_after = _by_name(_names(after.history, kind), after.at, new)
        for name, places in places_before.items():
            if name in places_after:
                yield kind, name or NO_NAME, places, places_after[name]


def _names(history: History, kind: Literal["node", "model", "device"]) -> Names:
    return {"node": history.node, "model": history.model, "device": history.device}[kind]


def _in_time_order(timing: Timing) -> Ints:
    return np.argsort(timing.history.wall_time_s[timing.at], kind="stable")


def _by_name(names: Names, at: Ints, places: Ints) -> dict[str, Ints]:
    """The places of each name's answers, in time order."""
    if not len(places):
        return {}
    codes = names.codes[at[places]]
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(names.names)))
    parts = np.split(places[order], ends[:-1])
    return {name: part for name, part in zip(names.names, parts, strict=True) if len(part)}


def _busiest(pairs: list[Pair], kind: str) -> list[Pair]:
    """The busiest of a kind, by name. Ties go to the lesser name."""
    of_kind = sorted((pair for pair in pairs if pair[0] == kind), key=lambda pair: (-len(pair[3]), pair[1]))
    return sorted(of_kind[:MOST_GROUPS], key=lambda pair: pair[1])
