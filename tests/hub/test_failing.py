"""How likely a node is to fail the next question."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hub.failing import FORGET_S, Failing, after_answer, after_failure, rate_at

estimates = st.builds(Failing, st.floats(0, 1), st.floats(0, 1000))
later = st.floats(1000, 3000)


@given(estimates, later)
def test_a_failure_never_makes_a_node_look_better(before: Failing, now: float) -> None:
    """And an answer never worse; both stay shares."""
    failed, answered = rate_at(after_failure(before, now), now), rate_at(after_answer(before, now), now)
    assert 0 <= answered <= rate_at(before, now) <= failed <= 1


@given(estimates, later, st.floats(0, 1000))
def test_time_forgets(before: Failing, now: float, more_s: float) -> None:
    """What is long ago counts less and less, so a node that nobody asks gets another chance."""
    failed = after_failure(before, now)
    assert rate_at(failed, now + more_s) <= rate_at(failed, now)
    assert rate_at(failed, now + 20 * FORGET_S) < 1e-6


def test_failing_always_is_almost_certain() -> None:
    """Ten failures in a row come near to 1; one in twenty comes near to that share."""
    always = mixed = Failing()
    for number in range(10):
        always = after_failure(always, float(number) / 100)
    assert rate_at(always, 0.1) > 0.9
    rates = []
    for number in range(2000):
        mixed = after_failure(mixed, 0.0) if number % 20 == 0 else after_answer(mixed, 0.0)
        rates.append(mixed.rate)
    assert 0.03 < sum(rates) / len(rates) < 0.07
