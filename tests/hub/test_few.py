"""The choice in plain numbers: the router's own, to the last digits."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.columns import Fleet
from hub.decision import Decision, Terms
from hub.eligible import Features
from hub.few import FEW, PRICINGS, choose_among_few
from hub.fleet import Node, Standing, answered, failed, surprised
from hub.objective import Objective, ranking
from hub.router import choose
from tests.hub.core_driver import bundle
from tests.hub.test_router import NOW, fleet_of, milliseconds, node_of, nodes, question

objectives = st.sampled_from(["question", "fleet"])


@st.composite
def seasoned(draw: st.DrawFn) -> Node:
    """A node that has answered, failed, surprised, and stands as it may."""
    node = draw(nodes())
    for _ in range(draw(st.integers(0, 3))):
        node = answered(node, draw(milliseconds), draw(st.floats(0, NOW)))
        node = surprised(node, draw(milliseconds), draw(milliseconds))
    if draw(st.booleans()):
        node = failed(node, draw(st.floats(0, NOW)))
    return msgspec.structs.replace(node, standing=draw(st.sampled_from(Standing)))


@st.composite
def questions(draw: st.DrawFn, names: list[str]) -> Features:
    """One of any kind, some with a node that has something of it."""
    some = st.sampled_from([*names, "nobody"])
    return question(
        task=draw(st.sampled_from(["text-generation", "feature-extraction"])),
        model=draw(st.sampled_from([None, None, "b0", "b1", "no such model"])),
        chars=draw(st.integers(0, 20_000)),
        payload_bytes=draw(st.integers(0, 260_000)),
        max_tokens=draw(st.sampled_from([None, 5, 4000])),
        expected_tokens=draw(st.floats(0, 500)),
        larger_than=draw(st.sampled_from([-1, 100, 4096])),
        budget_ms=draw(st.none() | st.floats(0, 60_000)),
        cached=tuple((draw(some), draw(st.floats(0, 300))) for _ in range(draw(st.integers(0, 2)))),
        holder=draw(st.none() | some),
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("usual_ms", [0.0, 1e-300, 5.0, 1e12])
@pytest.mark.parametrize("objective", ["question", "fleet"])
def test_no_cost_that_may_be_announced_is_too_much(objective: Objective, usual_ms: float) -> None:
    """A node may announce up to 1e12 ms a token: it is not chosen, and nothing overflows."""
    dear = node_of("a", bundle(decode_ms_per_token=1e12, prefill_ms_per_token=1e12, fixed_ms=1e12))
    fleet = fleet_of(dear, node_of("b"))
    fleet.usual_ms = usual_ms
    for decision in both(fleet, question(budget_ms=1e12, expected_tokens=1e7), objective):
        assert decision.chosen is not None
        assert decision.chosen.node == "b"


def both(fleet: Fleet, asked: Features, objective: Objective, **how: Any) -> tuple[Decision, Decision]:
    rank = ranking(objective)
    few = choose_among_few(asked, fleet, NOW, pricing=PRICINGS[rank], **how)
    return few, choose(asked, fleet, NOW, rank=rank, **how)


def numbers(terms: Terms) -> list[float]:
    return [getattr(terms, name) for name in Terms.__struct_fields__ if name not in ("node", "bundle")]


@given(st.data(), st.lists(seasoned(), max_size=8), objectives, st.booleans(), st.none() | st.floats(0.1, 5000))
def test_few_nodes_are_judged_as_many_are(
    data: st.DataObject, made: list[Node], objective: Objective, last_resort: bool, usual_ms: float | None
) -> None:
    """Candidates, their terms and prices, and the reasons of the rejected are those of the arrays."""
    fleet = fleet_of(*made)
    fleet.usual_ms = usual_ms
    assert fleet.size <= FEW
    names = [node.name for node in fleet.values()]
    asked = data.draw(questions(names))
    exclude = frozenset(data.draw(st.sets(st.sampled_from(names), max_size=2))) if names else frozenset()
    few, many = both(fleet, asked, objective, exclude=exclude, last_resort=last_resort)
    assert few.rejected == many.rejected
    assert (few.chosen is None) == (many.chosen is None)
    by_row = {(terms.node, terms.bundle): terms for terms in many.candidates}
    assert {(terms.node, terms.bundle) for terms in few.candidates} == by_row.keys()
    for terms in few.candidates:
        assert numbers(terms) == pytest.approx(numbers(by_row[terms.node, terms.bundle]), rel=1e-6, abs=1e-6)
    scores = [terms.delay_ms + terms.risk_ms + terms.price_ms for terms in few.candidates]
    assert scores == pytest.approx(sorted(scores), rel=1e-6, abs=1e-6)


def test_ties_go_to_the_lesser_name() -> None:
    """As in the arrays, whatever the order in which nodes came."""
    few, many = both(fleet_of(node_of("b"), node_of("a")), question(), "question")
    assert few.chosen is not None
    assert few == many
    assert few.chosen.node == "a"


def test_a_delay_that_was_nothing_does_not_divide() -> None:
    """A usual delay of zero, as virtual time may give it, is no error."""
    fleet = fleet_of(node_of("any"))
    fleet.usual_ms = 0.0
    decision = choose_among_few(question(budget_ms=1000.0), fleet, NOW, pricing=PRICINGS[ranking("fleet")])
    assert decision.chosen is not None
