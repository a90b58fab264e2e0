"""Why were the slowest questions slow? Each one's stages beside what was promised, and the decisions that led there.

`slowest_of` picks them from the columns; the rows themselves, with their decisions, come from the store, of which this
knows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from hub.events import Row
from hub.explain import decision_line
from hub.report.figures import Stages
from hub.report.timeline import iso
from hub.report.timing import STAGES, Timing


class Slow(msgspec.Struct, frozen=True, kw_only=True):
    """One question. `predicted_ms` is by stage, null where nothing was; `decisions` are lines as the hub logs them."""

    device: str
    id: str
    node: str | None
    model: str | None
    ended: str
    delay_ms: float
    told: bool
    attempts: int
    prompt_tokens: int
    completion_tokens: int
    stages_ms: Stages
    predicted_ms: Stages
    stage: str
    why: str
    decisions: tuple[str, ...]


def slowest_of(timing: Timing, most: int) -> list[int]:
    """Which of the timed answers took longest, the longest first: indices into `timing.at`."""
    most = min(most, len(timing.at))
    if not most:
        return []
    found = np.argpartition(timing.delay_ms, -most)[-most:]
    return [int(place) for place in sorted(found, key=lambda place: (-timing.delay_ms[place], place))]


def slow(timing: Timing, places: list[int], rows: Mapping[int, Row]) -> tuple[Slow, ...]:
    """The questions at `places`; `rows` are by their number. One that is gone from the store meanwhile is left out."""
    found = []
    for place in places:
        number = int(timing.history.row[timing.at[place]])
        if number in rows:
            found.append(_slow(timing, place, rows[number]))
    return tuple(found)


def _slow(timing: Timing, place: int, row: Row) -> Slow:
    taken = {name: round(float(timing.stages_ms[name][place]), 3) for name in STAGES}
    predicted = _predicted(row)
    stage, why = why_slow(taken, predicted, row)
    return Slow(
        device=row.device,
        id=row.id,
        node=row.node,
        model=row.model,
        ended=iso(row.wall_time_s),
        delay_ms=round(float(timing.delay_ms[place]), 3),
        told=row.asker_ms is not None,
        attempts=row.attempts,
        prompt_tokens=row.prompt_tokens,
        completion_tokens=row.completion_tokens,
        stages_ms=Stages(**taken),
        predicted_ms=Stages(**predicted),
        stage=stage,
        why=why,
        decisions=tuple(decision_line(decision) for decision in row.decisions),
    )


def _predicted(row: Row) -> dict[str, float | None]:
    """What the first decision promised of each stage; overhead is promised together with prefill."""
    names = ("network", "queue", "prefill", "decode")
    return {name: getattr(row, f"predicted_{name}_ms") for name in names}


def why_slow(taken: Mapping[str, float], predicted: Mapping[str, float | None], row: Row) -> tuple[str, str]:
    """The stage to blame, and a sentence about it: the one that was furthest beyond its promise, else the longest."""
    over = {
        name: taken[name] + (taken["overhead"] if name == "prefill" else 0.0) - promise
        for name, promise in predicted.items()
        if promise is not None
    }
    if over:
        over["access"] = taken["access"]  # no hub can promise it
    worst = max(over, key=lambda name: over[name], default="")
    if worst and over[worst] > 0.1 * sum(taken.values()):
        promise = predicted.get(worst) or 0.0
        promised = "which no hub can see or promise" if worst == "access" else f"{promise:,.1f} were predicted"
        return worst, f"{worst} took {over[worst] + promise:,.1f} ms, {promised}{_because(worst, row)}"
    longest = max(taken, key=lambda name: taken[name])
    expected = "about as predicted" if over else "nothing was predicted"
    return longest, f"{longest} took {taken[longest]:,.1f} ms of it, {expected}{_because(longest, row)}"


def _because(stage: str, row: Row) -> str:
    if stage == "network" and row.attempts > 1:
        return f"; attempts that were lost are in it, {row.attempts} were made"
    if stage == "decode":
        return f"; {row.completion_tokens} tokens were written"
    if stage in ("prefill", "overhead"):
        return f"; {row.prompt_tokens - row.cached_tokens} tokens were read"
    return ""
