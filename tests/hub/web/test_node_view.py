"""A node as the page shows it."""

from __future__ import annotations

import msgspec
import pytest

from hub import wire
from hub.fleet import ponged, taught, wait_ms, waiting
from hub.web.node_view import MOST_BUNDLES, look, node_view
from tests.hub.core_driver import BUNDLE, TOKENS, Driver, bundle


def shown(driver: Driver, name: str) -> dict[str, object]:
    """The node's view, through what the hub's own thread gives."""
    nodes, _, now = look(driver.core, driver.now)
    ((node, wait_ms),) = [one for one in nodes if one[0].name == name]
    return node_view(node, wait_ms, now)


def test_a_busy_node() -> None:
    """Its distance, its queue, and what it costs as the hub has learned it."""
    driver = Driver()
    driver.node("a", network_ms=20.0)
    for number in range(3):
        driver.ask(id=str(number))
    view = shown(driver, "a")
    assert (view["standing"], view["network_ms"], view["in_flight"], view["parallel"]) == ("ready", 20.0, 3, 1)
    assert float(str(view["wait_ms"])) > 100
    fleet = driver.core.fleet
    waits = {node.name: wait for node, wait in look(driver.core, driver.now)[0]}
    node = fleet.get("a")
    assert node is not None
    assert waits["a"] == pytest.approx(wait_ms(waiting(node), driver.now, fleet.tail))
    (served,) = view["bundles"]  # type: ignore[misc]
    assert (served["model"], served["runtime"], served["decode_ms_per_token"]) == ("smol", "cpu", 5.0)
    assert look(driver.core, driver.now)[1] == 3


def test_a_node_that_was_not_measured_or_is_gone() -> None:
    """Unknown is not zero."""
    driver = Driver()
    driver.state("a")
    driver.state("b", status="offline")
    assert (shown(driver, "a")["network_ms"], shown(driver, "a")["machine"]) == (None, {})
    assert (shown(driver, "b")["standing"], shown(driver, "b")["bundles"]) == ("gone", [])


def test_a_machine_tells_what_it_can() -> None:
    """Rounded as it is shown, so that noise is not sent; what it does not tell is left out."""
    driver = Driver()
    machine = wire.Machine(
        temperature_c=71.4, power_w=14.449, throttled=True, cpu=0.123456, memory_available_bytes=5 * 2**30
    )
    state = wire.NodeState(epoch=1, status="ready", bundles=(BUNDLE,), machine=machine)
    driver.receive("node/a/state", state)
    assert shown(driver, "a")["machine"] == {
        "temperature_c": 71,
        "power_w": 14.4,
        "throttled": True,
        "cpu": 0.12,
        "free_mib": 5120,
    }
    warmer = msgspec.structs.replace(state, machine=msgspec.structs.replace(machine, temperature_c=71.2))
    before = shown(driver, "a")
    driver.receive("node/a/state", warmer)
    assert shown(driver, "a") == before


def test_a_node_with_many_bundles_shows_some() -> None:
    """And how many more there are."""
    driver = Driver()
    driver.state("a", *(bundle(bundle=f"b{number}") for number in range(MOST_BUNDLES + 3)))
    view = shown(driver, "a")
    assert len(view["bundles"]) == MOST_BUNDLES  # type: ignore[arg-type]
    assert view["more_bundles"] == 3


def test_parts_that_have_not_changed_are_not_made_again() -> None:
    """And those that have are: the view is the one that would be made without any before it."""
    driver = Driver()
    driver.node("a")
    (before, wait_ms), *_ = look(driver.core, driver.now)[0]
    view = node_view(before, wait_ms, driver.now)
    farther = ponged(before, wire.Backlog(), 77.0, driver.now)
    after = node_view(farther, wait_ms, driver.now, (before, view))
    assert after == node_view(farther, wait_ms, driver.now)
    assert (after["network_ms"], view["network_ms"]) == (77.0, 1.0)
    assert after["bundles"] is view["bundles"]
    slower = taught(farther, BUNDLE.bundle, TOKENS, wire.Timing(prefill=900.0, decode=900.0, compute=1800.0))
    again = node_view(slower, wait_ms, driver.now, (farther, after))
    assert again == node_view(slower, wait_ms, driver.now)
    assert again["bundles"] != after["bundles"]
