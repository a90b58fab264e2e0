"""Who is in the fleet: read from retained messages alone."""

from __future__ import annotations

import io
from collections.abc import Callable

import msgspec
import pytest
from rich.console import Console

from hub import wire
from hub.broker_url import BrokerUrl
from hub.errors import LinkError
from hub.handlers import Handlers
from hub.loop import Loop
from hub.mqtt_link import Link
from hub.nodes import Fleet, fetch_fleet, nodes_document, nodes_table

SERVED = wire.ServedBundle(
    bundle="smollm2-x", model="m", task="text-generation", context=64,
    fixed_ms=1.5, prefill_ms_per_token=1, decode_ms_per_token=6.25,
)  # fmt: skip


def test_states_are_fetched(broker_url: str) -> None:
    """Every node's and hub's retained state comes back by name; what is no state is passed over."""
    loop = Loop()
    accepted: list[int] = []
    link = Link(BrokerUrl.parse(broker_url), "p", Handlers(received=print, accepted=accepted.append))
    loop.add(link)
    ready = wire.NodeState(epoch=1, status="ready", bundles=(SERVED,))
    for name, payload in (("n1", wire.encode(ready)), ("n2", b"\xff"), ("n3", b'{"epoch":2,"status":"offline"}')):
        link.publish(f"edge/v1/node/{name}/state", payload, qos=1, retain=True)
    link.publish("edge/v1/hub/h1/state", b'{"epoch":1,"status":"ready"}', qos=1, retain=True)
    while len(accepted) < 4:
        loop.run_once(0.1)
    loop.close()
    fleet = fetch_fleet(broker_url)
    assert {name: state.status for name, state in fleet.nodes.items()} == {"n1": "ready", "n3": "offline"}
    assert fleet.nodes["n1"] == ready
    assert {name: hub.status for name, hub in fleet.hubs.items()} == {"h1": "ready"}


def test_no_broker(free_port: Callable[[], int]) -> None:
    """A broker that is not there is named."""
    with pytest.raises(LinkError, match="is a broker running there"):
        fetch_fleet(f"mqtt://127.0.0.1:{free_port()}", limit_s=0.5)


def test_document_and_table() -> None:
    """The document has one object per node; the table shows what an answer costs."""
    states = {
        "b": wire.NodeState(epoch=1, status="offline"),
        "a": wire.NodeState(epoch=1, status="ready", bundles=(SERVED,)),
    }
    document = nodes_document(states)
    assert [(row["node"], row["status"], len(row["bundles"])) for row in document] == [
        ("a", "ready", 1),
        ("b", "offline", 0),
    ]
    console = Console(width=140, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    hubs = {"two": wire.HubPresence(epoch=1, status="offline"), "one": wire.HubPresence(epoch=1, status="ready")}
    console.print(nodes_table(Fleet(states, hubs)))
    text = console.export_text()
    assert "smollm2-x" in text
    assert "6.25" in text
    assert "hubs: one (ready), two (offline)" in text


def test_what_a_node_says_is_text() -> None:
    """Markup and orders to a terminal are shown as they are: one node must not hide, or break, the list of all."""
    said = msgspec.structs.replace(SERVED, bundle="[/red]x", runtime="\x1b[2Jcpu")
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(nodes_table(Fleet({"n": wire.NodeState(epoch=1, status="ready", bundles=(said,))}, {})))
    text = console.export_text(styles=True)
    assert "[/red]x" in text
    assert "\\x1b[2Jcpu" in text
    assert "\x1b[2J" not in text
