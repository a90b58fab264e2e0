"""Who is in the fleet right now, as the broker's retained messages tell it; needs no hub."""

from __future__ import annotations

import contextlib
import time
import uuid
from typing import Any, Final

import msgspec
from rich.table import Table
from rich.text import Text

from hub import wire
from hub.broker_url import BrokerUrl
from hub.errors import LinkError, WireError
from hub.handlers import Handlers, Received
from hub.loop import Loop
from hub.mqtt_link import Link
from hub.printable import printable

QUIET_S: Final = 0.3  # retained messages come in one burst after the subscription


class Fleet(msgspec.Struct, frozen=True):
    """Every node's retained state, and every hub's, by name."""

    nodes: dict[str, wire.NodeState]
    hubs: dict[str, wire.HubPresence]


def fetch_fleet(broker: str | BrokerUrl, limit_s: float = 5.0) -> Fleet:
    """Who has a state at the broker. Raises LinkError when it does not answer in `limit_s`."""
    fleet = Fleet({}, {})
    heard_at: list[float] = []

    def received(message: Received) -> None:
        topic = wire.Topic.parse(message.topic)
        if message.retained:  # what is published meanwhile comes later, and again and again
            heard_at[:] = [time.monotonic()]
        if topic is None or not message.payload:
            return
        with contextlib.suppress(WireError):  # not a state: not a node
            if topic.kind == "node_state":
                fleet.nodes[topic.name] = wire.decode_node_state(message.payload)
            elif topic.kind == "hub_state":
                fleet.hubs[topic.name] = wire.decode_hub_presence(message.payload)

    loop = Loop()
    url = BrokerUrl.of(broker)
    link = Link(
        url,
        f"nodes-{uuid.uuid4().hex[:12]}",
        Handlers(received=received, opened=lambda: heard_at.append(time.monotonic())),
        subscriptions=[(wire.Topic.all_of("node_state"), 0), (wire.Topic.all_of("hub_state"), 0)],
        gives_up=True,
    )
    loop.add(link)
    end = time.monotonic() + limit_s
    try:
        while not heard_at or time.monotonic() - heard_at[-1] < QUIET_S:
            if time.monotonic() > end and not heard_at:
                raise LinkError(f"{url} did not answer within {limit_s:.0f} s: is a broker running there?")
            loop.run_once(QUIET_S / 3)
    finally:
        loop.close()
    return fleet


def nodes_document(states: dict[str, wire.NodeState]) -> list[dict[str, Any]]:
    """The `--json` document: one object per node, by name."""
    return [{"node": name, **_plain(state)} for name, state in sorted(states.items())]


def _plain(state: wire.NodeState) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(state)
    return {"bundles": [], "backlog": {}, "parallel": state.parallel, **plain}


def nodes_table(fleet: Fleet) -> Table:
    """One row per node and bundle, and a line on the hubs. What nodes say is text: no markup, nothing for terminals."""
    states = fleet.nodes
    hubs = ", ".join(f"{name} ({hub.status})" for name, hub in sorted(fleet.hubs.items()))
    table = Table(title=f"{len(states)} nodes", caption=f"hubs: {hubs or 'none'}", caption_justify="left")
    for column in ("node", "status", "bundle", "runtime"):
        table.add_column(column)
    for column in ("fixed ms", "prefill ms/token", "decode ms/token", "CPU", "°C"):
        table.add_column(column, justify="right")
    for name, state in sorted(states.items()):
        for served in state.bundles or (None,):
            if served is None:
                table.add_row(name, state.status, *"-------")
                continue
            costs = (served.fixed_ms, served.prefill_ms_per_token, served.decode_ms_per_token)
            figures = (*(f"{cost:.2f}" for cost in costs), *_machine(state.machine or wire.Machine()))
            table.add_row(*map(Text, (name, state.status, *map(printable, (served.bundle, served.runtime)), *figures)))
    return table


def _machine(machine: wire.Machine) -> tuple[str, str]:
    cpu = "-" if machine.cpu is None else f"{100 * machine.cpu:.0f}%"
    hot = "-" if machine.temperature_c is None else f"{machine.temperature_c:.0f}"
    return cpu, hot
