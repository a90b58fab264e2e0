"""The rankings that the router can be given."""

from __future__ import annotations

import msgspec
import pytest

from hub.columns import Fleet
from hub.eligible import Features
from hub.fleet import Load, Node, answered, loaded
from hub.objective import fleet_delay, price_ms, ranking
from hub.router import Candidates, choose, least_delay
from tests.hub.test_router import NOW, bundle, fleet_of, node_of, question


def flowing(node: Node, compute_ms: float, every_s: float, seconds: float = 300.0) -> Node:
    """A node that has answered so often for a while."""
    for step in range(int(seconds / every_s)):
        node = answered(node, compute_ms, NOW - seconds + step * every_s)
    return node


def chosen(fleet: Fleet, objective: str, asked: Features | None = None) -> str:
    decision = choose(asked or question(), fleet, NOW, rank=ranking("fleet" if objective == "fleet" else "question"))
    assert decision.chosen is not None
    return decision.chosen.node


def prices(fleet: Fleet) -> dict[str, float]:
    found: dict[str, float] = {}

    def noting(candidates: Candidates) -> object:
        names = [fleet.label(int(row))[0] for row in candidates.rows]
        found.update(zip(names, price_ms(candidates).tolist(), strict=True))
        return least_delay(candidates)

    choose(question(), fleet, NOW, rank=noting)  # type: ignore[arg-type]
    return found


def test_nobody_else_asks_no_price() -> None:
    """In a fleet without other questions, both objectives are one."""
    fleet = fleet_of(node_of("near", network_ms=1), node_of("far", network_ms=60))
    assert prices(fleet) == {"far": 0.0, "near": 0.0}
    assert chosen(fleet, "fleet") == chosen(fleet, "question") == "near"


def test_a_busy_node_costs_those_who_come_after() -> None:
    """The more is asked of a node, and the longer it would be held, the higher is the price."""
    slow = bundle(decode_ms_per_token=50.0)
    idle, busy = node_of("idle"), flowing(node_of("busy"), 100.0, 0.2)
    busier, slower = flowing(node_of("busier"), 100.0, 0.11), flowing(node_of("slower", slow), 100.0, 0.2)
    found = prices(fleet_of(idle, busy, busier, slower))
    assert found["idle"] == 0.0 < found["busy"] < found["busier"]
    assert found["busy"] < found["slower"]


def test_the_fleet_waits_rather_than_holds_what_others_need() -> None:
    """A slow node that others need is left to them where a fast one is free a little later."""
    slow = flowing(node_of("slow", bundle(decode_ms_per_token=20.0), network_ms=1), 900.0, 1.2)
    held = Load(
        key=("d", "1"), sent_s=NOW, start_s=NOW, before_ms=0.0, decode_ms=200.0, longest_ms=1000.0, deadline_s=NOW + 99
    )
    fast = loaded(node_of("fast", bundle(decode_ms_per_token=5.0), network_ms=1), held)
    fleet = fleet_of(slow, fast)
    assert chosen(fleet, "question") == "slow"
    assert chosen(fleet, "fleet") == "fast"


def test_long_delays_are_dreaded() -> None:
    """The price does not make anybody wait for many times as long as is usual."""
    near = flowing(node_of("near", bundle(decode_ms_per_token=10.0), network_ms=1), 500.0, 0.55)
    far = node_of("far", bundle(decode_ms_per_token=10.0), network_ms=150)
    fleet = fleet_of(near, far)
    fleet.usual_ms = 100_000.0
    assert chosen(fleet, "fleet") == "far"
    fleet.usual_ms = 110.0
    assert chosen(fleet, "fleet") == "near"


def test_a_worse_node_changes_nothing() -> None:
    """One more that is farther, slower and busier is not chosen, and moves nobody else's place."""
    nodes = [flowing(node_of(f"n{number}", network_ms=10 * number + 1), 50.0, 0.2) for number in range(5)]
    before = choose(question(), fleet_of(*nodes), NOW, rank=fleet_delay)
    worse = flowing(node_of("worse", bundle(decode_ms_per_token=90.0), network_ms=500), 50.0, 0.1)
    after = choose(question(), fleet_of(*nodes, worse), NOW, rank=fleet_delay)
    assert [terms.node for terms in after.candidates if terms.node != "worse"] == [t.node for t in before.candidates]
    assert after.candidates[-1].node == "worse"


def test_what_is_priced_is_told() -> None:
    """The terms hold what the score has beyond the delay."""
    fleet = fleet_of(flowing(node_of("busy"), 100.0, 0.2))
    (terms,) = choose(question(), fleet, NOW, rank=fleet_delay).candidates
    assert terms.price_ms > 0
    (plain,) = choose(question(), fleet, NOW).candidates
    assert plain == msgspec.structs.replace(terms, price_ms=pytest.approx(0.0))


def test_lateness_counts_as_a_failure() -> None:
    """Where the node with the lower price would be too late, the one in time is taken."""
    busy = flowing(node_of("busy", bundle(decode_ms_per_token=10.0), network_ms=1), 500.0, 0.55)
    spare = node_of("spare", bundle(decode_ms_per_token=10.0), network_ms=150)
    fleet = fleet_of(busy, spare)
    assert chosen(fleet, "fleet", question(budget_ms=30_000.0)) == "spare"
    assert chosen(fleet, "fleet", question(budget_ms=200.0)) == "busy"
