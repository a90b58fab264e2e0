"""What Prometheus is told of this moment of a hub."""

from __future__ import annotations

import concurrent.futures
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from hub import fleet_gauges
from hub.columns import Fleet
from hub.fleet import Load, Node, Standing, given_up
from hub.fleet_gauges import FleetGauges
from hub.store.records import Kept

BUSY = Load(
    key=("d", "1"), sent_s=0.0, start_s=0.0, before_ms=100.0, decode_ms=900.0, longest_ms=9000.0, deadline_s=60.0
)


class Still:
    """A hub whose core stands still; it answers calls while `turns`."""

    ready = True
    turns = True

    def __init__(self, *nodes: Node) -> None:
        fleet = Fleet()
        for node in nodes:
            fleet.put(node)
        self.core = SimpleNamespace(fleet=fleet, in_flight=3, counters=Counter(asks=7, bad_report=1))

    def call(self, function: Callable[[Any, float], Any]) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        if self.turns:
            future.set_result(function(self.core, 0.0))
        return future


def node(name: str, standing: Standing = Standing.READY, **changes: Any) -> Node:
    return Node(name=name, epoch=1, standing=standing, **changes)


def told_of(hub: Still, records: Callable[[], Kept] | None = None) -> dict[tuple[str, ...], float]:
    """Value by name and label values."""
    registry = CollectorRegistry()
    registry.register(FleetGauges(hub, records))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_nodes_are_told_one_by_one_and_by_standing() -> None:
    """Up are those that answer; one that went down in silence is told on, one that left on purpose is not."""
    told = told_of(
        Still(
            node("ready", network_ms=20.0, load=(BUSY,), others=2),
            node("new"),
            node("draining", Standing.DRAINING),
            node("silent", Standing.SUSPECT, network_ms=20.0),
            node("lost", Standing.LOST),
            given_up(node("missed", Standing.LOST)),
            node("left", Standing.GONE),
        )
    )
    up = {name[1]: value for name, value in told.items() if name[0] == "edge_hub_node_up"}
    assert up == {"ready": 1, "new": 1, "draining": 1, "silent": 0, "lost": 0, "missed": 0}
    standings = {name[1]: value for name, value in told.items() if name[0] == "edge_hub_nodes"}
    assert standings == {"ready": 2, "suspect": 1, "lost": 1, "draining": 1, "gone": 2}
    assert {name[1] for name in told if name[0] == "edge_hub_node_network_seconds"} == {"ready"}
    assert told["edge_hub_node_network_seconds", "ready"] == 0.02
    assert told["edge_hub_node_questions", "ready"] == 3
    assert told["edge_hub_node_backlog_seconds", "ready"] > 0.5
    assert told["edge_hub_node_backlog_seconds", "new"] == 0


def test_of_many_nodes_those_that_are_down_are_told_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are counted."""
    monkeypatch.setattr(fleet_gauges, "MOST_NODES", 3)
    told = told_of(Still(*(node(f"n{number}") for number in range(5)), node("z", Standing.LOST)))
    assert [name[1] for name in told if name[0] == "edge_hub_node_up"] == ["z", "n0", "n1"]
    assert told["edge_hub_nodes_untold",] == 3


def test_the_core_and_its_records_are_asked() -> None:
    """In flight, its counters by name, written and lost records; none where nothing is kept."""
    told = told_of(Still(), lambda: Kept(written=41, lost=2, waiting=3))
    assert told["edge_hub_questions_in_flight",] == 3
    assert told["edge_hub_events_total", "bad_report"] == 1
    assert told["edge_hub_records_written_total",] == 41
    assert told["edge_hub_records_lost_total",] == 2
    assert told["edge_hub_records_waiting",] == 3
    assert not any("records" in name[0] for name in told_of(Still()))


def test_a_hub_that_does_not_answer_is_scraped_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it counted is still worth having; its nodes are left out."""
    monkeypatch.setattr(fleet_gauges, "WAIT_S", 0.05)
    hub = Still(node("a"))
    hub.turns, hub.ready = False, False
    told = told_of(hub, lambda: Kept(0, 0, 0))
    assert told["edge_hub_ready",] == 0
    assert told["edge_hub_records_written_total",] == 0
    assert not any(name[0].startswith("edge_hub_node") for name in told)
