"""The meter itself: what values cost, and that every bound ends a render."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import template_meter
from edge_agent.template_meter import BUDGET_UNITS, BudgetSpent, Meter

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_weight_bounds_the_text_of_a_value(value: object) -> None:
    """Printing a value takes no more than a small constant times its weight: nothing grows unpaid."""
    assert len(str(value)) <= 12 * Meter().weight(value)


@given(values, values)
def test_a_whole_weighs_more_than_its_parts(one: object, other: object) -> None:
    """A list costs its items and itself, however often an item is shared."""
    meter = Meter()
    assert meter.weight([one, other, one]) == 1 + 2 * meter.weight(one) + meter.weight(other)


def test_charge_gives_the_value_back() -> None:
    """What is paid for is unchanged; walking and collecting keep items and order."""
    meter = Meter()
    value = {"a": [1, "b"]}
    assert meter.charge(value) is value
    assert meter.charge_slice(value["a"]) is value["a"]
    assert meter.collect(iter("abc")) == list(meter.walk("abc")) == ["a", "b", "c"]


def test_the_budget_ends() -> None:
    """The unit after the last raises, and a restart brings all back."""
    meter = Meter()
    meter.spend(BUDGET_UNITS - 1)
    with pytest.raises(BudgetSpent, match="characters"):
        meter.spend(0)
    meter.restart()
    meter.spend(BUDGET_UNITS - 1)


def test_time_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A charge after the time is over raises, even if it costs nothing."""
    now = 100.0
    monkeypatch.setattr(template_meter.time, "monotonic", lambda: now)
    meter = Meter()
    assert meter.toll()
    now += template_meter.BUDGET_S + 0.1
    with pytest.raises(BudgetSpent, match="runs for more than"):
        meter.toll()


def test_deep_values_and_long_numbers_end() -> None:
    """What would cost more than its weight to print or to compute with is refused."""
    deep: list[object] = []
    for _ in range(template_meter.MAX_NESTING + 1):
        deep = [deep]
    with pytest.raises(BudgetSpent, match="deep"):
        Meter().charge(deep)
    with pytest.raises(BudgetSpent, match="bits"):
        Meter().charge(2**5000)
