"""The figures of the fleet, and of each of its nodes, models and devices: a million questions in a second.

Each question is counted once for each way of grouping, by numpy; the fleet is the sum of its nodes, and its percentiles
are those of their merged sketches. Does not know which groups there are, nor how they are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from hub.report.figures import Again, Budget, Figures, FirstToken, Latency, Part, Prediction, StageError, Stages
from hub.report.history import Floats, Ints, Mask, Names
from hub.report.sketch import Sketches, buckets_of
from hub.report.timing import STAGES, Timing

NO_NAME: Final = "(none)"
PREDICTED: Final = ("network", "queue", "prefill", "decode")
_SHARES: Final = (0.5, 0.9, 0.95, 0.99)
_P50, _, _P95, _ = range(len(_SHARES))

Columns = dict[str, Floats | Ints | Mask | None]  # by name; None counts


class Objective(msgspec.Struct, frozen=True):
    """What was promised: answers within `slo_ms`, for the share `target` of all questions."""

    slo_ms: float
    target: float


class Population(msgspec.Struct, frozen=True):
    """Some questions (`at`, None is all), and what is summed over them, by name; None counts."""

    at: Ints | None
    columns: Columns


class Tally(msgspec.Struct, frozen=True):
    """Sums by name, each (groups,), of some grouping; `longest_ms` is a maximum; sketches of what has percentiles."""

    groups: int
    sums: dict[str, Floats]
    longest_ms: Floats
    sketches: dict[str, Sketches]

    def total(self) -> Tally:
        """All groups in one."""
        into = np.zeros(self.groups, np.int64)
        return Tally(
            1,
            {name: column.sum(keepdims=True) for name, column in self.sums.items()},
            np.array([self.longest_ms.max(initial=0.0)]),
            {name: one.merged(into, 1) for name, one in self.sketches.items()},
        )


class Counted:
    """The columns of a history, made ready once, so that each grouping only adds them up."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._buckets = {
            name: buckets_of(column)
            for name, column in {**timing.stages_ms, "first": timing.first_ms, "delay": timing.delay_ms}.items()
        }
        self._populations = [_every(timing), _answered(timing), _timed(timing), *_again(timing), *_predicted(timing)]
        self.codes = tuple(sorted(name for name in timing.history.outcome.names if name != "answered"))

    def tally(self, names: Names) -> Tally:
        """The sums of each name's questions."""
        codes, groups = names.codes.astype(np.int64), len(names.names)
        sums: dict[str, Floats] = {}
        for population in self._populations:
            chosen = codes if population.at is None else codes[population.at]
            for name, column in population.columns.items():
                sums[name] = np.bincount(chosen, column, groups).astype(np.float64)
        for code in self.codes:
            sums[f"failed {code}"] = _count(codes[self._timing.history.outcome.are(code)], groups)
        timed = codes[self._timing.at]
        longest_ms = np.zeros(groups)
        np.maximum.at(longest_ms, timed, self._timing.delay_ms)
        sketches = {name: Sketches.of(column, timed, groups) for name, column in self._buckets.items()}
        return Tally(groups, sums, longest_ms, sketches)


def _count(codes: Ints, groups: int) -> Floats:
    return np.bincount(codes, None, groups).astype(np.float64)


def _every(timing: Timing) -> Population:
    history = timing.history
    return Population(
        None,
        {
            "questions": None,
            "duplicates": history.duplicates,
            "local": history.local,
            "routed": history.attempts > 0,
            "kept": timing.kept,
        },
    )


def _answered(timing: Timing) -> Population:
    at = np.flatnonzero(timing.answered)
    tokens = timing.history.completion_tokens[at]
    return Population(at, {"answered": None, "tokens": tokens, "partial": timing.history.partial[at]})


def _timed(timing: Timing) -> Population:
    columns: Columns = {"timed": None, "told": timing.told[timing.at]}
    columns |= {"delay": timing.delay_ms, "first": timing.first_ms, **timing.stages_ms}
    return Population(timing.at, {**columns, "timed tokens": timing.history.completion_tokens[timing.at]})


def _again(timing: Timing) -> list[Population]:
    """Questions with more than one attempt, by why: the first was lost, was feared to be late, or was not heard of."""
    history, found = timing.history, []
    for name, why in (("retries", ""), ("hedges", "hedge"), ("after silence", "silence")):
        at = np.flatnonzero(history.second.are(why) & (history.attempts > 1))
        gained = timing.answered[at] & (history.second_won[at] | (why == ""))
        columns: Columns = {name: None, f"{name} answered": gained, f"{name} kept": gained & timing.kept[at]}
        found.append(Population(at, columns))
    return found


def _predicted(timing: Timing) -> list[Population]:
    """Errors of predictions, where nothing else can be wrong: one attempt, which the hub saw from its start."""
    history = timing.history
    sound = timing.answered & ~history.partial & (history.attempts == 1) & (history.total_ms > 0)
    at = np.flatnonzero(sound & ~np.isnan(history.predicted_ms))
    error = (history.predicted_ms[at] - history.total_ms[at]) / history.total_ms[at]
    whole = Population(at, {"predicted": None, "error": np.abs(error), "bias": error})
    by_stage = [
        (stage, np.isnan(getattr(history, f"predicted_{stage}_ms")), getattr(history, f"predicted_{stage}_ms"))
        for stage in PREDICTED
    ]
    at = np.flatnonzero(sound & ~np.any([unknown for _, unknown, _ in by_stage], axis=0))
    columns: Columns = {"stages predicted": None}
    for stage, _, predicted_ms in by_stage:
        actual_ms = getattr(history, f"{stage}_ms")[at] + (history.overhead_ms[at] if stage == "prefill" else 0.0)
        off_ms = predicted_ms[at] - actual_ms
        columns |= {f"{stage} bias": off_ms, f"{stage} error": np.abs(off_ms)}
    return [whole, Population(at, columns)]


# --- from sums to figures -------------------------------------------------------------------------------


def fleet_figures(tally: Tally, objective: Objective, window_s: float, codes: Sequence[str]) -> Figures:
    """The figures of all groups of `tally` together."""
    return _figures(tally.total(), objective, window_s, codes)[0]


def part_figures(
    tally: Tally, names: Sequence[str], objective: Objective, window_s: float, codes: Sequence[str]
) -> tuple[Part, ...]:
    """The figures of each group that has questions, by name."""
    figures = _figures(tally, objective, window_s, codes)
    parts = [
        Part(name=name or NO_NAME, **{field: getattr(one, field) for field in Figures.__struct_fields__})
        for name, one in zip(names, figures, strict=True)
        if one.questions
    ]
    return tuple(sorted(parts, key=lambda part: part.name))


def _figures(tally: Tally, objective: Objective, window_s: float, codes: Sequence[str]) -> list[Figures]:
    sums = {name: column.tolist() for name, column in tally.sums.items()}
    percentiles = {name: one.percentiles(_SHARES).tolist() for name, one in tally.sketches.items()}
    longest_ms = tally.longest_ms.tolist()
    return [
        _of_one(
            {name: column[group] for name, column in sums.items()},
            {name: rows[group] for name, rows in percentiles.items()},
            longest_ms[group], objective, window_s, codes,
        )
        for group in range(tally.groups)
    ]  # fmt: skip


def _of_one(
    sums: dict[str, float],
    shares: dict[str, list[float]],
    longest_ms: float,
    objective: Objective,
    window_s: float,
    codes: Sequence[str],
) -> Figures:
    count = {name: round(value) for name, value in sums.items()}
    timed = count["timed"]
    return Figures(
        questions=count["questions"],
        answered=count["answered"],
        failed=count["questions"] - count["answered"],
        duplicates=count["duplicates"],
        timed=timed,
        told=count["told"],
        partial=count["partial"],
        local=count["local"],
        routed=count["routed"],
        latency_ms=_latency(sums, shares["delay"], longest_ms) if timed else Latency(),
        stages_ms=Stages(**{name: ratio(sums[name], timed, 3) for name in STAGES}),
        stages_p95_ms=Stages(**{name: round(shares[name][_P95], 3) for name in STAGES}) if timed else Stages(),
        first_token_ms=_first_token(sums, shares["first"]) if timed else FirstToken(),
        throughput_per_s=ratio(sums["answered"], window_s, 6),
        goodput_per_s=ratio(sums["kept"], window_s, 6),
        slo_ms=objective.slo_ms,
        slo_attainment=ratio(sums["kept"], sums["questions"], 6),
        budget=_budget(count, objective),
        completion_tokens=count["tokens"],
        tokens_per_s=ratio(sums["tokens"], window_s),
        decode_tokens_per_s=ratio(sums["timed tokens"], sums["decode"] / 1000),
        failures={code: count[f"failed {code}"] for code in codes if count[f"failed {code}"]},
        retries=_of_again(count, "retries"),
        hedges=_of_again(count, "hedges"),
        after_silence=_of_again(count, "after silence"),
        prediction=_prediction(sums),
    )


def _latency(sums: dict[str, float], shares: list[float], longest_ms: float) -> Latency:
    p50, p90, p95, p99 = (round(min(value, longest_ms), 3) for value in shares)
    mean = ratio(sums["delay"], sums["timed"], 3)
    return Latency(mean=mean, p50=p50, p90=p90, p95=p95, p99=p99, max=round(longest_ms, 3))


def _first_token(sums: dict[str, float], shares: list[float]) -> FirstToken:
    mean = ratio(sums["first"], sums["timed"], 3)
    return FirstToken(mean=mean, p50=round(shares[_P50], 3), p95=round(shares[_P95], 3))


def _budget(count: dict[str, int], objective: Objective) -> Budget:
    allowed, missed = (1 - objective.target) * count["questions"], count["questions"] - count["kept"]
    left = round(1 - missed / allowed, 4) if allowed > 0 else None
    return Budget(target=objective.target, allowed=round(allowed, 3), missed=missed, left=left)


def _of_again(count: dict[str, int], name: str) -> Again:
    return Again(questions=count[name], answered=count[f"{name} answered"], in_slo=count[f"{name} kept"])


def _prediction(sums: dict[str, float]) -> Prediction:
    staged = sums["stages predicted"]
    return Prediction(
        mape=ratio(sums["error"], sums["predicted"]),
        bias=ratio(sums["bias"], sums["predicted"]),
        questions=round(sums["predicted"]),
        stages={
            stage: StageError(
                bias_ms=ratio(sums[f"{stage} bias"], staged, 3), error_ms=ratio(sums[f"{stage} error"], staged, 3)
            )
            for stage in PREDICTED
            if staged
        },
    )


def ratio(part: float, whole: float, digits: int = 4) -> float | None:
    """`part / whole`, or None where there is no whole.

    >>> ratio(1, 3), ratio(1, 0)
    (0.3333, None)
    """
    return round(part / whole, digits) if whole > 0 else None
