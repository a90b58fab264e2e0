"""What a hub tells Prometheus of this moment: its nodes, what is in flight, its counters, what became of its records.

Asked in the thread of a scrape, it takes from the hub's thread no more than references to frozen values. Labels are
bounded: of nodes those that are in the fleet now, and no more than `MOST_NODES`.
"""

from __future__ import annotations

import concurrent.futures
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hub.core import Core
from hub.fleet import Node, Standing, wait_ms, waiting
from hub.running_hub import RunningHub
from hub.tail import Tail

log = logging.getLogger(__name__)

MOST_NODES: Final = 1000  # told one by one, first of all those that are down
WAIT_S: Final = 2.0  # for the hub's thread; a scrape without its answer tells the rest
_UP: Final = (Standing.READY, Standing.DRAINING)


class Kept(Protocol):
    """How many records were written and lost so far, and how many wait (`hub/store/records.py`)."""

    @property
    def written(self) -> int: ...
    @property
    def lost(self) -> int: ...
    @property
    def waiting(self) -> int: ...


class Moment(msgspec.Struct, frozen=True):
    """A hub as it is now."""

    now: float
    nodes: tuple[Node, ...]
    tail: Tail
    in_flight: int
    counters: Mapping[str, int]


def moment_of(core: Core, now: float) -> Moment:
    """Taken in the hub's thread: a few microseconds, and one more for a hundred nodes."""
    return Moment(now, tuple(core.fleet.values()), core.fleet.tail, core.in_flight, dict(core.counters))


class FleetGauges(Collector):
    """Tells of `hub` at each scrape. `records` is asked too; None where nothing is kept."""

    def __init__(self, hub: RunningHub, records: Callable[[], Kept] | None) -> None:
        self._hub = hub
        self._records = records

    def collect(self) -> Iterable[Metric]:
        yield _gauge("edge_hub_ready", "1 while the hub takes questions and can send work.", float(self._hub.ready))
        if self._records is not None:
            kept = self._records()
            yield CounterMetricFamily("edge_hub_records_written", "Records that are in the store.", value=kept.written)
            yield CounterMetricFamily("edge_hub_records_lost", "Records that could not be kept.", value=kept.lost)
            yield _gauge("edge_hub_records_waiting", "Records that are not written yet.", kept.waiting)
        try:
            moment = self._hub.call(moment_of).result(WAIT_S)
        except concurrent.futures.TimeoutError:
            log.warning("the hub's loop has not answered a scrape within %.0f s: nodes are left out", WAIT_S)
            return
        yield _gauge("edge_hub_questions_in_flight", "Questions without an outcome.", moment.in_flight)
        yield _events(moment.counters)
        yield from _nodes(moment)


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_text, value=value)


def _events(counters: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(
        "edge_hub_events", "What else happened here, as `counters:` in the log tells it.", labels=("event",)
    )
    for event, count in sorted(counters.items()):
        family.add_metric((event,), count)
    return family


def _nodes(moment: Moment) -> Iterable[Metric]:
    standings = Counter(node.standing for node in moment.nodes)
    by_standing = GaugeMetricFamily("edge_hub_nodes", "Nodes, by how far they can be counted on.", labels=("standing",))
    for standing in Standing:
        by_standing.add_metric((standing.name.lower(),), standings[standing])
    yield by_standing
    told = [node for node in moment.nodes if node.standing != Standing.GONE or node.missed]
    told.sort(key=lambda node: (node.standing in _UP, node.name))
    yield _gauge("edge_hub_nodes_untold", "Nodes beyond those that are told one by one.", len(told[MOST_NODES:]))
    up = _of_node("edge_hub_node_up", "1 for a node that answers pings, 0 for one that is silent or lost.")
    network = _of_node("edge_hub_node_network_seconds", "Round trip to the node, as the next question will find it.")
    backlog = _of_node("edge_hub_node_backlog_seconds", "Predicted time until the node is free for a new question.")
    questions = _of_node("edge_hub_node_questions", "Questions that the node has, of this hub and of others.")
    for node in told[:MOST_NODES]:
        label = (node.name,)
        up.add_metric(label, float(node.standing in _UP))
        if node.standing not in _UP:
            continue
        if node.network_ms is not None:
            network.add_metric(label, node.network_ms / 1000)
        backlog.add_metric(label, wait_ms(waiting(node), moment.now, moment.tail) / 1000)
        questions.add_metric(label, len(node.load) + node.others)
    yield from (up, network, backlog, questions)


def _of_node(name: str, help_text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help_text, labels=("node",))
