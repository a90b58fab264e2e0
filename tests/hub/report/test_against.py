"""What got slower beyond noise, and in which stage."""

from __future__ import annotations

import numpy as np
import pytest

from hub.events import Row
from hub.report.against import BLOCKS, LEAST_ANSWERS, Change, Compared, Comparison, blocks_of, compare
from hub.report.sketch import ACCURACY
from hub.report.timing import STAGES, Timing, timing_of
from tests.hub.report.many import many
from tests.hub.rows import history, row


def timing(rows: list[Row]) -> Timing:
    return timing_of(history(rows), 1000.0)


def compared(before: list[Row], after: list[Row], seed: int = 0) -> Comparison:
    return compare(timing(before), timing(after), since="s", until="u", draw=np.random.default_rng(seed))


def by_name(comparison: Comparison) -> dict[tuple[str, str], Compared]:
    return {(one.kind, one.name): one for one in comparison.groups}


BEFORE = many(3000, seed=1)
SLOWER = many(3000, seed=2, start_s=1_765_000_000.0, slow=1.5)


def test_what_has_changed_stands_out() -> None:
    """A node whose decoding takes half as long again is slower, in decoding; the others are the same."""
    found = by_name(compared(BEFORE, SLOWER))
    slow = found["node", "a"]
    assert (slow.verdict, slow.stage) == ("slower", "decode")
    assert slow.what == ("mean slower", "p50 slower", "p95 slower")
    assert slow.mean.low < slow.mean.change < slow.mean.high
    assert slow.stages["decode"].change == pytest.approx(slow.mean.change, rel=0.1)
    assert found["fleet", ""].stage == "decode"
    assert found["model", "smol"].verdict == "slower"
    for same in (("node", "b"), ("node", "c"), ("model", "qwen")):
        assert found[same].verdict == "same"


def test_the_other_way_round_it_is_faster() -> None:
    """The same change, backwards."""
    slow = by_name(compared(SLOWER, BEFORE))["node", "a"]
    assert (slow.verdict, slow.stage) == ("faster", "decode")
    assert slow.mean.change < 0


def test_figures_are_those_of_the_windows() -> None:
    """Before and after are the mean and the percentiles of the answers, and changes of stages sum to the mean's."""
    before, after = timing(BEFORE), timing(SLOWER)
    fleet = by_name(compared(BEFORE, SLOWER))["fleet", ""]
    assert fleet.mean.before == pytest.approx(before.delay_ms.mean(), abs=1e-3)
    assert fleet.mean.after == pytest.approx(after.delay_ms.mean(), abs=1e-3)
    for share, change in ((50, fleet.p50), (95, fleet.p95)):
        assert change.before == pytest.approx(np.percentile(before.delay_ms, share), rel=2 * ACCURACY)
        assert change.after == pytest.approx(np.percentile(after.delay_ms, share), rel=2 * ACCURACY)
    assert sum(fleet.stages[name].change for name in STAGES) == pytest.approx(fleet.mean.change, abs=0.01)
    assert (fleet.answers_before, fleet.answers_after) == (len(before.at), len(after.at))


def test_nothing_changed() -> None:
    """Of many comparisons of a fleet with itself on another day hardly one stands out: fewer than one in fifty."""
    verdicts = [
        change.verdict
        for seed in range(6)
        for one in compared(many(1500, seed=100 + seed), many(1500, seed=200 + seed)).groups
        for change in (one.mean, one.p50, one.p95)
    ]
    assert len(verdicts) > 100
    assert sum(verdict != "same" for verdict in verdicts) / len(verdicts) < 0.04


def test_a_slow_minute_is_no_change() -> None:
    """Answers that are slow together make one slow block, not many slow answers: the interval is wide enough for it."""
    steady = [row(1000.0 + number, total_ms=100.0 + number % 7, decode_ms=40.0 + number % 7) for number in range(1000)]
    spoilt = [
        row(9000.0 + number, total_ms=900.0 if 500 <= number < 520 else 100.0 + number % 7, decode_ms=40.0)
        for number in range(1000)
    ]
    fleet = by_name(compared(steady, spoilt))["fleet", ""]
    assert fleet.mean.change > 10.0
    assert fleet.mean.verdict == "same"


def test_too_few_answers_are_not_compared() -> None:
    """They are counted instead, and so are names that are in one window only not at all."""
    few = [row(1000.0 + number, node="b", device="d") for number in range(LEAST_ANSWERS - 1)]
    found = compared(BEFORE + few, SLOWER + few)
    assert found.too_few == 1  # the device; the node has others' answers too
    assert all(one.name != "d" for one in found.groups)
    alone = compared(BEFORE, [row(2e9 + number, node="new", device="e") for number in range(500)])
    assert {one.kind for one in alone.groups} == {"fleet", "model"}


def test_comparisons_are_counted() -> None:
    """Three figures of each group; one in a hundred of them by chance."""
    found = compared(BEFORE, SLOWER)
    assert found.comparisons == 3 * len(found.groups) == 3 * (1 + 3 + 2 + 3)
    assert found.by_chance == pytest.approx(0.27)


def test_only_the_busiest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are more of a kind than can be looked at, it says how many were left out."""
    monkeypatch.setattr("hub.report.against.MOST_GROUPS", 2)
    found = compared(BEFORE, SLOWER)
    assert found.left_out == 2  # a node and a device
    assert len(found.groups) == 1 + 2 + 2 + 2


def test_the_same_draw_gives_the_same_intervals() -> None:
    """Nothing is drawn but what was passed in."""
    assert compared(BEFORE, SLOWER, 5) == compared(BEFORE, SLOWER, 5)
    assert compared(BEFORE, SLOWER, 5) != compared(BEFORE, SLOWER, 6)


def test_an_empty_window() -> None:
    """Nothing is compared with nothing."""
    found = compared([], many(500))
    assert (found.groups, found.comparisons, found.too_few) == ((), 0, 1)


def test_blocks_hold_every_answer_once() -> None:
    """In time order, as equal as can be; sums and buckets are those of the answers."""
    one = timing(many(333))
    places = np.arange(len(one.at))
    blocks = blocks_of(one, places)
    assert len(blocks.answers) == BLOCKS
    assert blocks.answers.sum() == len(one.at)
    assert blocks.answers.max() - blocks.answers.min() <= 1
    assert blocks.sums_ms["delay"].sum() == pytest.approx(one.delay_ms.sum())
    assert blocks.sums_ms["delay"][0] == pytest.approx(one.delay_ms[: int(blocks.answers[0])].sum())
    assert blocks.filled.sum(axis=1).tolist() == blocks.answers.tolist()


def test_a_change_below_the_error_of_percentiles_is_none() -> None:
    """However sure it is."""
    assert Change(before=100.0, after=100.9, change=0.9, low=0.8, high=1.0).verdict == "same"
    assert Change(before=100.0, after=101.2, change=1.2, low=1.1, high=1.3).verdict == "slower"
    assert Change(before=100.0, after=90.0, change=-10.0, low=-20.0, high=0.5).verdict == "same"
