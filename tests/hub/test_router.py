"""The choice: against the formula written out plainly, one node at a time."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub import wire
from hub.columns import Fleet
from hub.decision import Decision
from hub.delay import Spread
from hub.eligible import NAMED, Features
from hub.failing import FORGET_S
from hub.fleet import (
    Load,
    Node,
    announced,
    delayed,
    doubted,
    failed,
    freed,
    loaded,
    ponged,
    taught,
    told,
    wait_ms,
    waiting,
)
from hub.router import UNMEASURED_MS, choose, least_wait_ms
from tests.hub.core_driver import BUNDLE, bundle

NOW = 10.0


def question(**changes: Any) -> Features:
    values: dict[str, Any] = {
        "device": "d",
        "id": "q",
        "attempt": 1,
        "task": "text-generation",
        "model": None,
        "chars": 40,
        "max_tokens": None,
        "expected_tokens": 10.0,
        **changes,
    }
    return Features(**values)


def node_of(name: str, *bundles: wire.ServedBundle, network_ms: float | None = 1.0, status: Any = "ready") -> Node:
    state = wire.NodeState(epoch=1, status=status, bundles=bundles or (BUNDLE,))
    fresh = announced(None, name, state, 0.0, live=False)
    return fresh if network_ms is None else ponged(fresh, wire.Backlog(), network_ms, 0.0)


def fleet_of(*nodes: Node) -> Fleet:
    fleet = Fleet()
    for node in nodes:
        fleet.put(node)
    return fleet


def naive_delay_ms(fleet: Fleet, node: Node, served: wire.ServedBundle, asked: Features, now: float) -> float:
    """DESIGN.md's formula for one node, in plain arithmetic on what is known of it."""
    known = [other.network_ms for other in fleet.values() if other.network_ms is not None and other.bundles]
    network_ms = node.network_ms if node.network_ms is not None else max([*known, UNMEASURED_MS])
    cost = dict(zip((each.bundle for each in node.bundles), node.costs, strict=True))[served.bundle]
    prompt_tokens = fleet.prompt_size(served.bundle).at(asked.chars)
    wait = wait_ms(waiting(node), now, fleet.tail)
    upload_ms = node.upload.ms_per_kib * asked.payload_bytes / 1024
    return (
        network_ms
        + upload_ms
        + max(wait - network_ms / 2 - upload_ms, 0)
        + cost.fixed_ms
        + cost.prefill_ms_per_token * prompt_tokens
        + cost.decode_ms_per_token * asked.expected_tokens
    )


def load(work_ms: float, sent_s: float = NOW) -> Load:
    """A question that is all decoding and begins now."""
    return Load(
        key=("d", "1"),
        sent_s=sent_s,
        start_s=NOW,
        before_ms=0.0,
        decode_ms=work_ms,
        longest_ms=5000.0,
        deadline_s=99.0,
    )


milliseconds = st.floats(0, 1000)
names = st.integers(0, 99).map(lambda number: f"n{number:02}")


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    served = tuple(
        bundle(
            bundle=f"b{number}",
            fixed_ms=draw(milliseconds),
            prefill_ms_per_token=draw(milliseconds),
            decode_ms_per_token=draw(milliseconds),
        )
        for number in range(draw(st.integers(0, 2)))
    )
    state = wire.NodeState(epoch=1, status="ready", bundles=served, parallel=draw(st.integers(1, 3)))
    made = announced(None, draw(names), state, 0.0, live=False)
    if draw(st.booleans()):
        made = ponged(made, wire.Backlog(), draw(milliseconds), 0.0)
    for number in range(draw(st.integers(0, 4))):
        sent_s = draw(st.floats(0, NOW))
        made = loaded(
            made,
            Load(
                key=("d", str(number)),
                sent_s=sent_s,
                start_s=sent_s,
                before_ms=draw(milliseconds),
                decode_ms=draw(milliseconds),
                longest_ms=draw(st.floats(0, 1e5)),
                deadline_s=draw(st.floats(0, 100)),
            ),
        )
    if draw(st.booleans()):
        backlog = wire.Backlog(questions=draw(st.integers(0, 5)), ms=draw(milliseconds))
        made = told(made, backlog, draw(st.floats(0, NOW)))
    if made.load and draw(st.booleans()):
        made = freed(made, made.load[0].key, NOW)
    for served_one in made.bundles:
        timing = wire.Timing(prefill=draw(milliseconds), decode=draw(milliseconds))
        made = taught(made, served_one.bundle, wire.Tokens(prompt=30, completion=9), timing)
    if draw(st.booleans()):
        made = delayed(made, 50_000, draw(milliseconds))
    return made


@given(st.lists(nodes(), max_size=8), st.floats(0, 500), st.integers(0, 10_000))
def test_chosen_node_has_the_least_delay(made: list[Node], expected_tokens: float, chars: int) -> None:
    """No other node and bundle is sooner by the formula; ties go to the lesser name; the terms add up to it."""
    fleet = fleet_of(*made)
    asked = question(expected_tokens=expected_tokens, chars=chars, max_tokens=None)
    decision = choose(asked, fleet, NOW)
    delays = {
        (node.name, served.bundle): naive_delay_ms(fleet, node, served, asked, NOW)
        for node in fleet.values()
        for served in node.bundles
        if 0.75 * fleet.prompt_size(served.bundle).at(chars) <= served.context
    }
    assert (decision.chosen is None) == (not delays)
    if decision.chosen is None:
        return
    for terms in decision.candidates:
        assert terms.delay_ms == pytest.approx(delays[terms.node, terms.bundle], rel=1e-9, abs=1e-6)
    best = (decision.chosen.node, decision.chosen.bundle)
    assert delays[best] == pytest.approx(min(delays.values()), rel=1e-9, abs=1e-6)
    ordered = [(terms.delay_ms, terms.node, terms.bundle) for terms in decision.candidates]
    assert ordered == sorted(ordered)


@given(st.lists(nodes(), min_size=1, max_size=6), nodes())
def test_worse_node_changes_nothing(made: list[Node], other: Node) -> None:
    """A node that is worse than the chosen one does not change the choice."""
    fleet = fleet_of(*made)
    before = choose(question(), fleet, NOW).chosen
    if before is None or other.name in fleet or other.network_ms is None:
        return  # the first measured node of a fleet says something about those not measured
    if any(node.network_ms is None for node in made):
        return
    fleet.put(other)
    delays = [naive_delay_ms(fleet, other, served, question(), NOW) for served in other.bundles]
    if all(delay > before.delay_ms + 1e-6 for delay in delays):
        assert choose(question(), fleet, NOW).chosen == before


@given(st.lists(nodes(), max_size=8))
def test_order_of_arrival_does_not_matter(made: list[Node]) -> None:
    """The same nodes in any order give the same decision."""
    unique = list({node.name: node for node in made}.values())
    assert choose(question(), fleet_of(*unique), NOW) == choose(question(), fleet_of(*reversed(unique)), NOW)


def test_near_and_far_change_places_with_load() -> None:
    """The near node is chosen when free; while it is busy for longer than the way to the far one, that is."""
    near, far = node_of("near", network_ms=1), node_of("far", network_ms=60)
    work = Load(
        key=("d", "1"), sent_s=NOW, start_s=NOW, before_ms=0.0, decode_ms=50.0, longest_ms=5000.0, deadline_s=99.0
    )
    assert chosen(choose(question(), fleet_of(near, far), NOW)) == "near"
    assert chosen(choose(question(), fleet_of(loaded(near, work), far), NOW)) == "near"
    longer = Load(
        key=("d", "1"), sent_s=NOW, start_s=NOW, before_ms=0.0, decode_ms=500.0, longest_ms=5000.0, deadline_s=99.0
    )
    assert chosen(choose(question(), fleet_of(loaded(near, longer), far), NOW)) == "far"


def test_queue_drains_while_the_question_travels() -> None:
    """A wait shorter than half the round trip is not felt."""
    work = Load(
        key=("d", "1"),
        sent_s=NOW - 0.05,
        start_s=NOW,
        before_ms=0.0,
        decode_ms=40.0,
        longest_ms=5000.0,
        deadline_s=99.0,
    )
    (terms,) = choose(question(), fleet_of(loaded(node_of("a", network_ms=100), work)), NOW).candidates
    assert terms.wait_ms == pytest.approx(40, abs=1)
    assert terms.delay_ms == pytest.approx(100 + terms.fixed_ms + terms.prefill_ms + terms.decode_ms)


def test_ties_go_to_the_lesser_name() -> None:
    """Equal nodes are told apart by name, whoever came first."""
    assert chosen(choose(question(), fleet_of(*(node_of(name) for name in "cab")), NOW)) == "a"


def test_unmeasured_node_is_used_when_needed() -> None:
    """Without a pong a node is no favourite, but better than a long wait, and better than nothing."""
    fresh, near, far = node_of("a", network_ms=None), node_of("b", network_ms=1), node_of("c", network_ms=300)
    assert chosen(choose(question(), fleet_of(fresh, near), NOW)) == "b"
    assert chosen(choose(question(), fleet_of(fresh), NOW)) == "a"
    priced = {terms.node: terms.network_ms for terms in choose(question(), fleet_of(fresh, near, far), NOW).candidates}
    assert priced == {"a": 300, "b": 1, "c": 300}


def test_tiers() -> None:
    """A suspect node is used only as a last resort and only without a ready one; a draining one never."""
    suspect = doubted(node_of("suspect"))
    draining = node_of("draining", status="draining")
    slow = node_of("slow", bundle(decode_ms_per_token=500))
    assert chosen(choose(question(), fleet_of(suspect, draining, slow), NOW, last_resort=True)) == "slow"
    assert chosen(choose(question(), fleet_of(suspect, draining), NOW)) is None
    assert chosen(choose(question(), fleet_of(suspect, draining), NOW, last_resort=True)) == "suspect"
    assert chosen(choose(question(), fleet_of(draining), NOW, last_resort=True)) is None


def test_least_wait() -> None:
    """The shortest queue of the ready nodes."""
    busy = told(node_of("a", network_ms=0), wire.Backlog(questions=1, ms=700), NOW)
    assert least_wait_ms(fleet_of(busy), NOW) == pytest.approx(700)
    assert least_wait_ms(fleet_of(busy, node_of("b")), NOW) == 0
    assert least_wait_ms(fleet_of(), NOW) == 0


def test_large_fleet_names_the_best() -> None:
    """In a fleet of hundreds a decision names the best few candidates and counts the rest."""
    made = [node_of(f"n{number:03}", network_ms=(number * 37) % 200 + 1) for number in range(200)]
    made += [node_of(f"x{number:03}", status="draining") for number in range(100)]
    decision = choose(question(), fleet_of(*made), NOW)
    assert (len(decision.candidates), decision.more_candidates) == (NAMED, 200 - NAMED)
    assert (len(decision.rejected), decision.more_rejected) == (NAMED, 100 - NAMED)
    assert [terms.network_ms for terms in decision.candidates] == [float(number) for number in range(1, NAMED + 1)]


@settings(max_examples=20)
@given(st.lists(st.integers(0, 3), min_size=20, max_size=60))
def test_ties_in_a_large_fleet(distances: list[int]) -> None:
    """Where more nodes tie than are named, those of lesser names are."""
    made = [node_of(f"n{number:03}", network_ms=float(distance)) for number, distance in enumerate(distances)]
    decision = choose(question(), fleet_of(*reversed(made)), NOW)
    expected = sorted((float(distance), f"n{number:03}") for number, distance in enumerate(distances))[:NAMED]
    assert [(terms.network_ms, terms.node) for terms in decision.candidates] == expected


def chosen(decision: Decision) -> str | None:
    return decision.chosen.node if decision.chosen is not None else None


def test_failing_node_loses_until_that_is_forgotten() -> None:
    """Its risk, the budget by its rate of failures, is put on its delay; other terms stay as they are."""
    bad = failed(node_of("bad"), NOW)
    fleet = fleet_of(bad, node_of("good", network_ms=400.0))
    asked = question(budget_ms=30_000.0)
    decision = choose(asked, fleet, NOW)
    assert chosen(decision) == "good"
    other = next(terms for terms in decision.candidates if terms.node == "bad")
    assert other.risk_ms == pytest.approx(0.25 * 30_000)
    assert other.delay_ms == choose(asked, fleet_of(node_of("bad")), NOW).candidates[0].delay_ms
    assert chosen(choose(asked, fleet, NOW + 5 * FORGET_S)) == "bad"
    assert chosen(choose(question(), fleet, NOW)) == "bad"  # without a budget nothing is at stake


@given(st.lists(nodes(), min_size=1, max_size=6), st.integers(0, 5), st.floats(1, 1e5), st.integers(1, 9))
def test_a_failure_never_makes_a_node_more_likely_to_be_chosen(
    made: list[Node], which: int, budget_ms: float, failures: int
) -> None:
    """Whoever is not chosen is not chosen after failures either."""
    fleet, asked = fleet_of(*made), question(budget_ms=budget_ms)
    before = choose(asked, fleet, NOW)
    node = list(fleet.values())[which % len(fleet)]
    for _ in range(failures):
        node = failed(node, NOW)
    fleet.put(node)
    after = choose(asked, fleet, NOW)
    assert (before.chosen is None) == (after.chosen is None)
    assert after.chosen is None or after.chosen.node != node.name or chosen(before) == node.name


def test_the_surest_is_named_where_the_deadline_is_near() -> None:
    """Of many nodes those with the least delay are named, and one that is later but steady."""
    wild = [node_of(f"n{number:03}") for number in range(NAMED + 5)]
    wild = [msgspec.structs.replace(node, spread=Spread(weight=20.0, mean=1.0, variance=4.0)) for node in wild]
    steady = node_of("steady", network_ms=20.0)
    steady = msgspec.structs.replace(steady, spread=Spread(weight=20.0, mean=0.0, variance=0.01))
    fleet = fleet_of(*wild, steady)
    near = choose(question(budget_ms=200.0), fleet, NOW)
    assert len(near.candidates) == NAMED
    assert near.candidates[-1].node == "steady"
    assert near.candidates[-1].chance_within(200.0) > near.candidates[0].chance_within(200.0)
    assert "steady" not in {terms.node for terms in choose(question(budget_ms=1e7), fleet, NOW).candidates}
