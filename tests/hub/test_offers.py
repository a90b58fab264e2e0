"""What the fleet offers: the soonest two of each task and model, as the router would price them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hub.fleet import Node, doubted
from hub.offers import MOST_OFFERS, offers_of
from tests.hub.core_driver import bundle
from tests.hub.test_router import NOW, fleet_of, node_of


def named(*nodes: Node) -> list[tuple[str, str]]:
    return [(offer.node, offer.bundle) for offer in offers_of(fleet_of(*nodes), NOW)]


def test_the_soonest_two_of_a_model() -> None:
    """Whoever reads it may be one of them; distance counts, and so does what a token costs."""
    served = bundle()
    slow = msgspec.structs.replace(served, decode_ms_per_token=served.decode_ms_per_token * 100)
    nodes = node_of("far", served, network_ms=5.0), node_of("near", served), node_of("slow", slow)
    assert named(*nodes) == [("near", served.bundle), ("far", served.bundle)]


def test_each_task_and_model_has_its_own() -> None:
    """A node with two bundles of one model is offered once for it, by the better one."""
    good, other = bundle(), bundle(bundle="other", model="another")
    worse = msgspec.structs.replace(good, bundle="worse", fixed_ms=good.fixed_ms + 1000)
    assert sorted(named(node_of("a", worse, good, other))) == sorted([("a", good.bundle), ("a", "other")])


def test_only_ready_nodes_are_offered() -> None:
    """Not those that are silent or about to leave; an empty fleet offers nothing."""
    assert named() == []
    assert named(doubted(node_of("silent")), node_of("leaving", status="draining")) == []


def test_the_terms_are_those_of_the_router() -> None:
    """In whole milliseconds, so that the noise of a ping is no news."""
    served = bundle()
    [offer] = offers_of(fleet_of(node_of("a", served, network_ms=3.4)), NOW)
    assert (offer.network_ms, offer.wait_ms) == (3, 0)
    assert (offer.task, offer.model, offer.context) == (served.task, served.model, served.context)
    for name in ("fixed_ms", "prefill_ms_per_token", "decode_ms_per_token"):
        assert getattr(offer, name) == pytest.approx(getattr(served, name), rel=0.05)


def test_a_fleet_of_many_models_is_cut() -> None:
    """The message stays small; the soonest stay in it."""
    many: list[Any] = [
        node_of(f"n{number}", bundle(bundle=f"b{number}", model=f"m{number}"), network_ms=number / 10)
        for number in range(MOST_OFFERS + 20)
    ]
    found = named(*many)
    assert len(found) == MOST_OFFERS
    assert found[0] == ("n0", "b0")
