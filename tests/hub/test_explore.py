"""Asking a node to learn how it is by now."""

from __future__ import annotations

import msgspec
import pytest

from hub.decision import Decision, Terms
from hub.explore import CAUSE, exploring
from hub.fleet import Node, Standing, answered

NOW = 1000.0
TERMS = Terms(
    node="fast",
    bundle="b",
    network_ms=10.0,
    wait_ms=0.0,
    fixed_ms=0.0,
    prefill_ms=0.0,
    decode_ms=90.0,
    prompt_tokens=10.0,
    completion_tokens=10.0,
    log_spread=0.3,
)


def node(name: str, heard_s: float | None) -> Node:
    made = Node(name=name, epoch=1, standing=Standing.READY)
    return made if heard_s is None else answered(made, 50.0, heard_s)


def decided(*others: Terms, budget_ms: float | None = 30_000.0) -> Decision:
    return Decision(
        device="d", id="1", attempt=1, chosen=TERMS, candidates=(TERMS, *others), rejected=(), budget_ms=budget_ms
    )


def terms(name: str, **changes: float) -> Terms:
    return msgspec.structs.replace(TERMS, node=name, **changes)


HEARD = {"fast": NOW - 1, "fresh": NOW - 5, "old": NOW - 100, "older": NOW - 500, "never": None}


def chosen(decision: Decision) -> str:
    made = exploring(decision, lambda name: node(name, HEARD[name]), NOW).chosen
    assert made is not None
    return made.node


def test_the_one_heard_of_longest_ago_is_asked() -> None:
    """And the decision says what for."""
    assert chosen(decided(terms("fresh"), terms("old"), terms("older"))) == "older"
    assert chosen(decided(terms("old"), terms("never"))) == "never"
    made = exploring(decided(terms("old")), lambda name: node(name, HEARD[name]), NOW)
    assert made.cause == CAUSE


@pytest.mark.parametrize(
    "other",
    [terms("fresh"), terms("old", decode_ms=1000.0), terms("old", risk_ms=50.0)],
    ids=["heard of just now", "far too slow", "fails"],
)
def test_nothing_is_learned_at_any_price(other: Terms) -> None:
    """Not where the answer is fresh, would take many times as long, or may fail."""
    assert chosen(decided(other)) == "fast"


def test_no_question_with_a_near_deadline_explores() -> None:
    """It must be in time all the same."""
    assert chosen(decided(terms("old"), budget_ms=120.0)) == "fast"
    assert chosen(decided(terms("old"), budget_ms=None)) == "fast"


def test_where_the_best_is_the_old_one_nothing_changes() -> None:
    """It is asked anyway."""
    made = decided(terms("old"))
    assert exploring(made, lambda name: node(name, NOW - 100), NOW) is made
