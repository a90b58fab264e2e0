"""Costs of runs follow what runs take."""

from __future__ import annotations

import pytest

from edge_agent.runtime.run_cost import RunCost
from edge_agent.runtime.step_cost import StepCost


def cost() -> RunCost:
    return RunCost(StepCost(fixed_ms=8.0, prefill_ms_per_token=2.0, decode_ms_per_token=10.0))


def test_chunks_shrink_on_a_slower_machine() -> None:
    """Runs that take three times as long as measured leave a third of the tokens in the same time."""
    slow = cost()
    before = slow.tokens_within(100.0)
    for _ in range(60):
        slow.ran(3 * (8.0 + 2.0 * 40), 40)
    assert before == 46
    assert slow.tokens_within(100.0) == pytest.approx((100 / 3 - 8) / 2, abs=1)
    assert cost().tokens_within(1.0) == 1


def test_checking_ends_where_it_does_not_pay() -> None:
    """More luck, longer guesses; checks that turn out slow, or steps that turn out fast, end them."""
    lengths = [cost().worth_checking(luck / 10, 16) for luck in range(11)]
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[10]) == (0, 16)
    slow, fast = cost(), cost()
    for _ in range(60):
        slow.ran(10 * (8.0 + 2.0 * 5), 5)
        fast.stepped(1.0)
    assert slow.worth_checking(0.9, 16) == fast.worth_checking(0.9, 16) == 0
    assert cost().worth_checking(1.0, 3) == 3


def test_a_cost_of_nothing_divides_by_nothing() -> None:
    """Costs of 0, as a measurement may say, still give a number."""
    nothing = RunCost(StepCost(fixed_ms=0.0, prefill_ms_per_token=0.0, decode_ms_per_token=0.0))
    nothing.ran(1.0, 5)
    assert nothing.tokens_within(100.0) > 1000
    assert nothing.worth_checking(0.9, 4) in range(5)
