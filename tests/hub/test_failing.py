"""How likely a node is to fail the next question."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.failing import FORGET_S, Failing, after_answer, after_failure, rate_at
from tests.hub.core_driver import (
    Driver,
    bundle,
    proven,
    works,
)

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


# --- in the core ---------------------------------------------------------------------------------------


def test_a_node_that_fails_fast_is_not_cheaper() -> None:
    """Of two equal nodes the failing one loses, also against one that is five times slower; later it is tried again."""
    hub = Driver()
    hub.node("bad", bundle(decode_ms_per_token=1.0))
    hub.node("good", bundle(decode_ms_per_token=5.0))
    taken = []
    for number in range(6):
        ((first, _),) = works(hub.ask(id=str(number)))
        taken.append(first)
        hub.now += 0.001 if first == "bad" else 0.3
        for name, attempt in works(hub.done(first, "internal" if first == "bad" else "answered", id=str(number))):
            hub.now += 0.3
            hub.done(name, id=str(number), attempt=attempt)
    assert taken == ["bad", "good", "good", "good", "good", "good"]
    assert hub.decisions[-1].candidates[1].risk_ms > 1000
    hub.wait_ponging(300.0, "bad", "good")
    assert works(hub.ask(id="later")) == [("bad", 1)]


@pytest.mark.parametrize("outcome", ["internal", "overloaded", "cancelled", "unsupported", "no_node"])
def test_failures_count(outcome: str) -> None:
    """Whatever a node fails by no fault of the question's raises its risk, and lets no other term fall."""
    hub = proven("a", "b")
    hub.ask(id="q")
    before = hub.decisions[-1].candidates[0]
    hub.now += 0.001
    hub.done("a", outcome)
    hub.ask(id="2")
    after = next(terms for terms in hub.decisions[-1].candidates if terms.node == "a")
    assert after.risk_ms > before.risk_ms == 0.0
    assert after.delay_ms + after.risk_ms >= before.delay_ms


@pytest.mark.parametrize("outcome", ["invalid", "too_large", "deadline"])
def test_the_question_s_own_fault(outcome: str) -> None:
    """Says nothing against the node."""
    hub = proven("a")
    hub.ask(id="q")
    hub.done("a", outcome)
    hub.ask(id="2")
    assert hub.decisions[-1].candidates[0].risk_ms == 0.0


def test_what_a_draining_node_hands_back_is_no_failure() -> None:
    """It will be as good as before when it returns."""
    hub = proven("a", "b")
    hub.ask(id="q")
    hub.state("a", status="draining")
    assert works(hub.done("a", "overloaded")) == [("b", 2)]
    hub.state("a")
    assert works(hub.ask(id="2")) == [("a", 1)]
