"""Here or in the fleet, against the formula, and always here where nothing speaks for the fleet."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.local_first import UNMEASURED_BROKER_MS, LocalFirst, Need, Terms
from hub import wire

NEED = Need(task="text-generation", model="m", prompt_tokens=40, answer_tokens=20)
HERE = Terms(wait_ms=0, fixed_ms=5, prefill_ms_per_token=2, decode_ms_per_token=10)  # 285 ms for NEED


def offer(**changes: Any) -> wire.Offer:
    values: dict[str, Any] = {
        "task": "text-generation", "model": "m", "node": "far", "bundle": "b", "context": 4096, "network_ms": 10,
        "wait_ms": 0, "fixed_ms": 1, "prefill_ms_per_token": 0.1, "decode_ms_per_token": 1, **changes,
    }  # fmt: skip
    return wire.Offer(**values)


def choice(*offers: wire.Offer, margin_ms: float = 50.0) -> LocalFirst:
    known = LocalFirst("me", margin_ms)
    known.heard("hub", wire.HubState(epoch=1, status="ready", offers=offers))
    return known


def test_the_fleet_is_asked_where_it_is_sooner_by_the_margin() -> None:
    """Both delays and the margin are told."""
    route = choice(offer()).choose(NEED, HERE, 3.0)
    assert (route.where, route.here_ms, route.fleet_ms, route.margin_ms) == ("fleet", 285.0, 38.0, 50.0)
    assert choice(offer(), margin_ms=246.9).choose(NEED, HERE, 3.0).where == "fleet"
    assert choice(offer(), margin_ms=247.1).choose(NEED, HERE, 3.0).where == "here"


def test_a_busy_node_sends_away_what_would_wait() -> None:
    """And a busy fleet is not asked; its queue drains while the question travels."""
    busy = Terms(wait_ms=5000, fixed_ms=1, prefill_ms_per_token=0, decode_ms_per_token=0)
    alike = offer(fixed_ms=1, prefill_ms_per_token=0, decode_ms_per_token=0)
    assert choice(alike).choose(NEED, busy, 1.0).where == "fleet"
    route = choice(offer(wait_ms=8000, network_ms=100)).choose(NEED, busy, 1.0)
    assert (route.where, route.fleet_ms) == ("here", 1 + 100 + 7950 + 25)


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"node": "me"}, "no other"), ({"model": "x", "bundle": "x"}, "no other"), ({"task": "fill-mask"}, "no other")],
)
def test_what_is_no_offer_for_this(changes: dict[str, Any], why: str) -> None:
    """This node's own, another model's, another task's."""
    route = choice(offer(**changes)).choose(NEED, HERE, 1.0)
    assert (route.where, route.fleet_ms) == ("here", None)
    assert why in route.why


def test_a_bundle_is_asked_for_by_its_id() -> None:
    """As well as by its model's name."""
    need = Need(task="text-generation", model="b", prompt_tokens=40, answer_tokens=20)
    assert choice(offer()).choose(need, HERE, 1.0).where == "fleet"


def test_without_a_hub_all_is_here() -> None:
    """It never came, it left, or the broker did."""
    known = choice(offer())
    assert known.hub == "hub"
    known.heard("hub", wire.HubState(epoch=1, status="offline"))
    assert (known.hub, known.choose(NEED, HERE, 1.0).where) == (None, "here")
    known.heard("hub", wire.HubState(epoch=2, status="ready", offers=(offer(),)))
    assert known.choose(NEED, HERE, 1.0).where == "fleet"
    known.lost_broker()
    assert (known.hub, known.offers, known.choose(NEED, HERE, 1.0).why) == (None, (), "no hub is in reach")


def test_what_this_node_lacks_goes_to_the_fleet() -> None:
    """Whatever it costs there, and even where nothing is known of it."""
    assert choice(offer(network_ms=60_000)).choose(NEED, None, 1.0).where == "fleet"
    assert LocalFirst("me", 50.0).choose(NEED, None, None).where == "fleet"


def test_an_unmeasured_way_to_the_broker_is_no_short_one() -> None:
    """Else the first question would go away for nothing."""
    assert choice(offer()).choose(NEED, HERE, None).fleet_ms == 35 + UNMEASURED_BROKER_MS


_ms = st.floats(0, 1e4)


@given(_ms, _ms, _ms, _ms, _ms, _ms)
def test_the_choice_is_the_formula(
    wait: float, fixed: float, far: float, queue: float, cost: float, margin: float
) -> None:
    """Written out plainly."""
    here = Terms(wait_ms=wait, fixed_ms=fixed, prefill_ms_per_token=1, decode_ms_per_token=1)
    there = offer(network_ms=far, wait_ms=queue, fixed_ms=cost, prefill_ms_per_token=1, decode_ms_per_token=1)
    here_ms = wait + fixed + 60
    fleet_ms = 7 + far + max(queue - far / 2, 0) + cost + 60
    route = choice(there, margin_ms=margin).choose(NEED, here, 7.0)
    if abs(fleet_ms + margin - here_ms) > 1e-6:
        assert route.where == ("fleet" if fleet_ms + margin < here_ms else "here")
