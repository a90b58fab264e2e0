"""Every figure beside a plain computation of the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.events import Row
from hub.report.figures import Figures, Part
from hub.report.groups import NO_NAME, Counted, Objective, fleet_figures, part_figures
from hub.report.sketch import ACCURACY
from hub.report.timing import STAGES, timing_of
from tests.hub.report.many import many
from tests.hub.rows import history, row

SLO_MS = 150.0
WINDOW_S = 3000.0
OBJECTIVE = Objective(SLO_MS, 0.9)
ROWS = many(400)


def figures_of(rows: list[Row]) -> Figures:
    counted = Counted(timing_of(history(rows), SLO_MS))
    return fleet_figures(counted.tally(history(rows).node), OBJECTIVE, WINDOW_S, counted.codes)


def parts_of(rows: list[Row], kind: str) -> dict[str, Part]:
    counted, names = Counted(timing_of(history(rows), SLO_MS)), getattr(history(rows), kind)
    parts = part_figures(counted.tally(names), names.names, OBJECTIVE, WINDOW_S, counted.codes)
    assert [part.name for part in parts] == sorted(part.name for part in parts)
    return {part.name: part for part in parts}


def delay_ms(row: Row) -> float | None:
    """Of an answer, where it is known."""
    if row.outcome != "answered" or (row.partial and row.asker_ms is None):
        return None
    return row.total_ms if row.asker_ms is None else row.asker_ms


def stages_ms(row: Row) -> dict[str, float]:
    access_ms = 0.0 if row.asker_ms is None else row.asker_ms - row.total_ms
    return {"access": access_ms, **{name: getattr(row, f"{name}_ms") for name in STAGES[1:]}}


def check(figures: Figures, rows: list[Row]) -> None:
    """All figures of these rows, question by question."""
    answered = [row for row in rows if row.outcome == "answered"]
    timed = [row for row in answered if delay_ms(row) is not None]
    kept = [row for row in timed if (delay_ms(row) or 0.0) <= SLO_MS]
    assert figures.questions == len(rows)
    assert (figures.answered, figures.failed) == (len(answered), len(rows) - len(answered))
    assert figures.duplicates == sum(row.duplicates for row in rows)
    assert (figures.timed, figures.told) == (len(timed), sum(row.asker_ms is not None for row in answered))
    assert figures.partial == sum(row.partial for row in answered)
    assert figures.local == sum(row.local for row in rows)
    assert figures.routed == sum(row.attempts > 0 for row in rows)
    codes = sorted({row.outcome for row in rows} - {"answered"})
    assert figures.failures == {code: sum(row.outcome == code for row in rows) for code in codes}
    assert figures.throughput_per_s == pytest.approx(len(answered) / WINDOW_S, abs=1e-6)
    assert figures.goodput_per_s == pytest.approx(len(kept) / WINDOW_S, abs=1e-6)
    assert figures.slo_attainment == (pytest.approx(len(kept) / len(rows), abs=1e-6) if rows else None)
    check_budget(figures, len(rows), len(kept))
    check_times(figures, timed)
    check_tokens(figures, answered, timed)
    check_again(figures, rows, kept)
    check_prediction(figures, answered)


def check_budget(figures: Figures, questions: int, kept: int) -> None:
    assert figures.budget.missed == questions - kept
    assert figures.budget.allowed == pytest.approx(0.1 * questions, abs=1e-3)
    if questions:
        assert figures.budget.left == pytest.approx(1 - (questions - kept) / (0.1 * questions), abs=1e-3)


def check_times(figures: Figures, timed: list[Row]) -> None:
    if not timed:
        assert set(vars_of(figures.latency_ms) + vars_of(figures.stages_ms) + vars_of(figures.first_token_ms)) == {None}
        return
    delays = np.array([delay_ms(row) for row in timed], float)
    latency = figures.latency_ms
    assert latency.mean == pytest.approx(delays.mean(), abs=1e-3)
    assert latency.max == pytest.approx(delays.max(), abs=1e-3)
    for share, value in ((50, latency.p50), (90, latency.p90), (95, latency.p95), (99, latency.p99)):
        assert value == pytest.approx(np.percentile(delays, share), rel=ACCURACY * 1.01)
    for name in STAGES:
        values = [stages_ms(row)[name] for row in timed]
        assert getattr(figures.stages_ms, name) == pytest.approx(np.mean(values), abs=1e-3)
        error = ACCURACY * 1.01 * np.max(np.abs(values)) + 2e-3
        assert getattr(figures.stages_p95_ms, name) == pytest.approx(np.percentile(values, 95), abs=error)
    firsts = [
        max((delay_ms(row) or 0.0) - row.decode_ms, 0.0) if row.asker_first_ms is None else row.asker_first_ms
        for row in timed
    ]
    assert figures.first_token_ms.mean == pytest.approx(np.mean(firsts), abs=1e-3)
    assert figures.first_token_ms.p95 == pytest.approx(np.percentile(firsts, 95), rel=ACCURACY * 1.01, abs=2e-3)


def vars_of(part: object) -> list[float | None]:
    return [getattr(part, name) for name in part.__struct_fields__]  # type: ignore[attr-defined]


def check_tokens(figures: Figures, answered: list[Row], timed: list[Row]) -> None:
    tokens = sum(row.completion_tokens for row in answered)
    assert figures.completion_tokens == tokens
    assert figures.tokens_per_s == pytest.approx(tokens / WINDOW_S, abs=1e-4)
    if timed:
        decode_s = sum(row.decode_ms for row in timed) / 1000
        assert figures.decode_tokens_per_s == pytest.approx(
            sum(r.completion_tokens for r in timed) / decode_s, abs=1e-3
        )


def check_again(figures: Figures, rows: list[Row], kept: list[Row]) -> None:
    """A second attempt gains what it answers itself, a retry every answer."""
    for found, why in ((figures.retries, ""), (figures.hedges, "hedge"), (figures.after_silence, "silence")):
        such = [row for row in rows if row.attempts > 1 and row.second == why]
        gained = [row for row in such if row.outcome == "answered" and (row.second_won or not why)]
        assert (found.questions, found.answered) == (len(such), len(gained))
        assert found.in_slo == sum(row in kept for row in gained)


def check_prediction(figures: Figures, answered: list[Row]) -> None:
    sound = [row for row in answered if row.attempts == 1 and not row.partial and row.predicted_ms is not None]
    assert figures.prediction.questions == len(sound)
    if not sound:
        assert (figures.prediction.mape, figures.prediction.bias, figures.prediction.stages) == (None, None, {})
        return
    errors = [((row.predicted_ms or 0.0) - row.total_ms) / row.total_ms for row in sound]
    assert figures.prediction.mape == pytest.approx(np.mean(np.abs(errors)), abs=1e-4)
    assert figures.prediction.bias == pytest.approx(np.mean(errors), abs=1e-4)
    for name, error in figures.prediction.stages.items():
        also = [row.overhead_ms if name == "prefill" else 0.0 for row in sound]
        off = [
            getattr(row, f"predicted_{name}_ms") - getattr(row, f"{name}_ms") - more
            for row, more in zip(sound, also, strict=True)
        ]
        assert error.bias_ms == pytest.approx(np.mean(off), abs=1e-3)
        assert error.error_ms == pytest.approx(np.mean(np.abs(off)), abs=1e-3)


def test_the_fleet() -> None:
    """Every figure is what adding up the rows gives."""
    check(figures_of(ROWS), ROWS)


@pytest.mark.parametrize(
    ("kind", "name_of"),
    [("node", lambda row: row.node), ("model", lambda row: row.model), ("device", lambda row: row.device)],
)
def test_each_part(kind: str, name_of: Callable[[Row], str | None]) -> None:
    """Every figure of each node, model and device is that of its own rows; what had none is a part by itself."""
    parts = parts_of(ROWS, kind)
    names = {name_of(row) for row in ROWS}
    assert set(parts) == {name or NO_NAME for name in names}
    for name in names:
        check(parts[name or NO_NAME], [row for row in ROWS if name_of(row) == name])


@given(st.integers(0, 1000), st.integers(0, 40))
def test_any_rows(seed: int, count: int) -> None:
    """Few rows, one, or none."""
    rows = many(count, seed=seed)
    check(figures_of(rows), rows)


@given(st.integers(0, 1000))
def test_parts_sum_to_the_fleet(seed: int) -> None:
    """Counts of nodes, of models and of devices each add up to the fleet's, and the longest delay is somebody's."""
    rows = many(60, seed=seed)
    fleet = figures_of(rows)
    for kind in ("node", "model", "device"):
        parts = list(parts_of(rows, kind).values())
        for field in ("questions", "answered", "failed", "duplicates", "timed", "told", "local", "completion_tokens"):
            assert sum(getattr(part, field) for part in parts) == getattr(fleet, field)
        longest_ms = [part.latency_ms.max for part in parts if part.latency_ms.max is not None]
        assert max(longest_ms, default=None) == fleet.latency_ms.max
        assert sum(part.hedges.questions for part in parts) == fleet.hedges.questions


def test_a_name_without_questions_is_no_part() -> None:
    """A filter leaves names behind that have no question any more."""
    whole = history([row(node="a"), row(node="b")])
    some = whole.where(whole.node.are("b"))
    counted = Counted(timing_of(some, SLO_MS))
    parts = part_figures(counted.tally(some.node), some.node.names, OBJECTIVE, WINDOW_S, counted.codes)
    assert [part.name for part in parts] == ["b"]


def test_a_target_of_all_allows_no_miss() -> None:
    """There is no share of nothing."""
    counted = Counted(timing_of(history(ROWS), SLO_MS))
    figures = fleet_figures(counted.tally(history(ROWS).node), Objective(SLO_MS, 1.0), WINDOW_S, counted.codes)
    assert (figures.budget.allowed, figures.budget.left) == (0.0, None)
