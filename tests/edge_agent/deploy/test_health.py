"""A worse bundle is told from bad luck: certain failures at once, one of three not at all."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.deploy.health import (
    BESIDE,
    CONFIDENCE,
    LEAST_ANSWERS,
    MOST_RATIOS,
    Ratio,
    Seen,
    slower,
    too_many,
    unproven,
    worse,
)
from hub import wire

LIMITS = wire.Trial()  # 2% failures, 20% slower
NOTHING = Seen()

counts = st.integers(0, 300)
shares = st.floats(0.0, 0.5)
ratio = st.floats(0.1, 10.0)


def seen(*ratios: float, failed: int = 0) -> Seen:
    return Seen(answered=len(ratios), failed=failed, ratios=tuple(map(Ratio, ratios)))


def beside(longer_by_one: float, others: Iterable[float], slow: float = 1.0) -> Seen:
    """Answers that each other one makes longer by that share."""
    return Seen(answered=9, ratios=tuple(Ratio(slow * (1 + longer_by_one * count), count) for count in others))


def test_a_bundle_that_fails_everything_goes_back_after_two() -> None:
    """One failure is bad luck, two of two are not."""
    assert worse(NOTHING.after(True, 0, 0, 0), NOTHING, LIMITS) is None
    why = worse(Seen(failed=2), NOTHING, LIMITS)
    assert why == "2 of 2 questions failed, at most 2.0% may (at a confidence of 99%)"


def test_one_failure_of_three_is_no_reason() -> None:
    """A share of a third says little of a limit of 2% with three questions, much with thirty."""
    assert worse(Seen(answered=2, failed=1), NOTHING, LIMITS) is None
    assert worse(Seen(answered=20, failed=10), NOTHING, LIMITS) is not None


def test_when_the_trial_is_over_one_failure_of_three_is_a_reason() -> None:
    """Who has learned of it asks elsewhere, so that no more come; an old bundle that fails as often is no better."""
    assert unproven(Seen(answered=2, failed=1), Seen(answered=9), LIMITS) == (
        "1 of 3 questions failed until the trial was over, at most 2.0% may"
    )
    assert unproven(Seen(failed=1), NOTHING, LIMITS) is not None
    assert unproven(Seen(answered=2, failed=1), Seen(answered=2, failed=1), LIMITS) is None
    assert unproven(NOTHING, NOTHING, LIMITS) is None


def test_where_none_may_fail_one_is_too_many() -> None:
    """And where all may, none is."""
    assert worse(Seen(answered=99, failed=1), NOTHING, wire.Trial(max_failure=0.0)) is not None
    assert worse(Seen(failed=99), NOTHING, wire.Trial(max_failure=1.0)) is None


@given(counts, counts, shares)
def test_failures_within_the_limit_never_undo(failed: int, answered: int, limit: float) -> None:
    """What was seen must lie beyond the limit, and then more failures never make it better."""
    asked = failed + answered
    if failed <= limit * asked:
        assert not too_many(failed, asked, limit)
    if too_many(failed, asked, limit):
        assert too_many(failed + 1, asked + 1, limit)
        assert too_many(failed, asked, limit / 2)


@given(st.integers(1, 60), st.floats(0.01, 0.4))
def test_failures_are_judged_at_the_stated_confidence(asked: int, limit: float) -> None:
    """The chance that a bundle at its limit is called worse at one look is below 1%: counted over all outcomes."""
    chance = sum(
        math.comb(asked, failed) * limit**failed * (1 - limit) ** (asked - failed)
        for failed in range(asked + 1)
        if too_many(failed, asked, limit)
    )
    assert chance < 1 - CONFIDENCE + 1e-9


def test_answers_that_take_half_as_long_again_go_back() -> None:
    """With the figures, once there are enough of them."""
    new = NOTHING
    for count in range(LEAST_ANSWERS):
        assert worse(new, NOTHING, LIMITS) is None, count
        new = new.after(False, 100.0, 150.0, 0.0)
    assert worse(new, NOTHING, LIMITS) == (
        "answers take 50% longer than predicted, at most 20% is allowed (8 answers, at a confidence of 99%)"
    )
    assert slower(new, NOTHING) == 0.5


def test_some_slow_answers_are_no_slow_bundle() -> None:
    """Three in ten took ten times as long: something else had the machine."""
    assert worse(seen(*[1.0] * 14, *[10.0] * 6), NOTHING, LIMITS) is None


def test_a_slow_machine_is_not_the_bundle() -> None:
    """The old bundle's last answers took as much longer than predicted."""
    assert worse(seen(*[1.5] * 20), seen(*[1.4] * 20), LIMITS) is None
    why = worse(seen(*[2.0] * 20), seen(*[1.4] * 20), LIMITS)
    assert why is not None
    assert "where the bundle before took 40% longer" in why


others = st.lists(st.floats(0.0, 15.0), min_size=LEAST_ANSWERS, max_size=40)


@given(others, others, st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.5, 3.0))
def test_who_takes_longer_only_by_those_beside_it_stays(
    new: list[float], old: list[float], before: float, more: float, slow: float
) -> None:
    """Also where it gains only half as much by a batch as the one before, or nobody has told what that gains."""
    assert worse(beside(before, new), NOTHING, LIMITS) is None
    told = beside(before, [count for count in old if count >= BESIDE] + [1.0] * LEAST_ANSWERS, slow)
    assert worse(beside(before + more * (1 - before) / 2, new, min(slow, 1.0)), told, LIMITS) is None


def test_a_slow_bundle_is_seen_where_it_is_never_alone() -> None:
    """One that takes three times as long; what its batches gain, and that the machine is slow, the old bundle tells."""
    many = [3.0] * 20
    why = worse(beside(0.2, many, slow=3.0), beside(0.2, many), LIMITS)
    assert why is not None
    assert "less what 3.0 others beside them need" in why
    assert worse(beside(0.2, many, slow=3.0), beside(0.2, [*many, *[0.0] * 20], slow=3.0), LIMITS) is None
    assert worse(beside(1.0, many, slow=3.0), NOTHING, LIMITS) is not None
    assert slower(beside(1.0, many, slow=3.0), NOTHING) == pytest.approx(2.0)


def test_what_was_alone_is_judged_by_itself() -> None:
    """Beside others nothing shows, for all that they may need is taken off; and there are more of those."""
    why = worse(beside(0.3, [*[0.0] * 10, *[3.0] * 30], slow=1.5), NOTHING, LIMITS)
    assert why == "answers take 50% longer than predicted, at most 20% is allowed (10 answers, at a confidence of 99%)"
    assert slower(beside(0.3, [*[0.0] * 10, *[3.0] * 30], slow=1.5), NOTHING) == pytest.approx(0.5)
    assert worse(beside(0.3, [3.0] * 30, slow=1.5), NOTHING, LIMITS) is None


@given(st.lists(ratio, max_size=30), st.lists(ratio, max_size=30))
def test_a_bundle_that_keeps_its_prediction_stays(ratios: list[float], old: list[float]) -> None:
    """However quick the one before was; and when most answers are within the limit, the median is, too."""
    kept = [min(one, 1.2) for one in ratios]
    assert worse(seen(*kept), seen(*old), LIMITS) is None


@given(st.lists(ratio, min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_the_order_of_answers_changes_nothing(ratios: list[float], chance: random.Random) -> None:
    """The verdict is about what was seen, not when."""
    mixed = list(ratios)
    chance.shuffle(mixed)
    assert worse(seen(*ratios), NOTHING, LIMITS) == worse(seen(*mixed), NOTHING, LIMITS)


@given(st.lists(ratio, min_size=LEAST_ANSWERS, max_size=40), st.floats(1.0, 3.0))
def test_slower_answers_are_never_better(ratios: list[float], factor: float) -> None:
    """What goes back goes back when every answer takes still longer."""
    if worse(seen(*ratios), NOTHING, LIMITS) is not None:
        assert worse(seen(*(one * factor for one in ratios)), NOTHING, LIMITS) is not None


def test_an_answer_without_a_prediction_says_nothing_of_delays() -> None:
    """It counts as answered; NaN and infinity are no delays either."""
    after = NOTHING.after(False, 0.0, 5.0, 0.0).after(False, 5.0, math.nan, 0.0).after(False, 5.0, math.inf, 0.0)
    assert after == Seen(answered=3)
    assert slower(after, NOTHING) is None


def test_a_long_trial_keeps_the_latest_ratios() -> None:
    """Memory is bounded."""
    new = NOTHING
    for _ in range(MOST_RATIOS + 10):
        new = new.after(False, 1.0, 1.0, 0.0)
    assert (new.answered, len(new.ratios)) == (MOST_RATIOS + 10, MOST_RATIOS)
