"""A hub's rollouts over its directory: what is ordered is carried out, by one hub, from wherever it stands."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from hub import wire
from hub.columns import Fleet
from hub.delay import seed_cost
from hub.errors import RolloutError
from hub.fleet import Node, Standing
from hub.rollout.carrier import Carrier, source_of
from hub.rollout.order import NodeProgress, Progress
from hub.rollout.orders import Orders
from tests.hub.rollout.scene import BAD, GOOD, FakeNode, order


class FakeHub:
    """A hub whose nodes are FakeNodes; what it publishes comes to them at once."""

    ready = True

    def __init__(self, nodes: dict[str, FakeNode]) -> None:
        self.nodes = nodes
        self.told: list[tuple[str, wire.Desired]] = []
        self.on_disk: list[dict[str, int]] = []
        self.progress: Callable[[str], Progress] | None = None

    def call(self, function: Callable[[Any, float], Any]) -> concurrent.futures.Future[Any]:
        fleet = Fleet()
        for name, node in self.nodes.items():
            fleet.put(
                Node(
                    name=name, epoch=1, standing=Standing.READY if node.there else Standing.GONE, bundles=node.bundles,
                    costs=tuple(map(seed_cost, node.bundles)), deployment=node.deployment, deploys=True,
                    profile=node.profile,
                )
            )  # fmt: skip
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        future.set_result(function(SimpleNamespace(fleet=fleet), 0.0))
        return future

    def publish_desired(self, node: str, desired: wire.Desired) -> None:
        self.told.append((node, desired))
        if self.progress is not None:
            self.on_disk.append({name: one.epoch for name, one in self.progress(desired.rollout).nodes.items()})
        self.nodes[node].retained = desired


class Site:
    """A directory, a hub beside it, and time."""

    def __init__(self, root: Path, nodes: dict[str, FakeNode]) -> None:
        self.root = root
        self.orders = Orders(root)
        self.hub = FakeHub(nodes)
        self.now = 0.0
        self.carrier = Carrier(root, "http://127.0.0.1:1", settle_s=2.0)

    def run(self, seconds: int, carrier: Carrier | None = None) -> None:
        for _ in range(seconds):
            (carrier or self.carrier).look(self.hub, self.now)
            self.now += 1.0
            for node in self.hub.nodes.values():
                node.tick()

    def restart(self) -> None:
        self.carrier.stop()
        self.carrier = Carrier(self.root, "http://127.0.0.1:1", settle_s=2.0)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, {f"n{number}": FakeNode() for number in range(4)})


def test_what_is_ordered_is_carried_out(site: Site) -> None:
    """Once the fleet has been heard; what each is told is on the disk by then, and says where the files are."""
    site.hub.progress = site.orders.progress
    site.orders.begin(order(), replace=False)
    site.run(2)
    assert site.hub.told == []
    site.run(40)
    assert site.orders.progress("r1").status == "done"
    assert {name for name, _ in site.hub.told} == set(site.hub.nodes)
    for (name, desired), written in zip(site.hub.told, site.hub.on_disk, strict=True):
        assert written[name] == desired.epoch
    assert {desired.sources for _, desired in site.hub.told} == {("http://127.0.0.1:1",)}
    (view,) = site.carrier.views()
    assert (view["name"], view["status"], view["phases"]) == ("r1", "done", {"serving": 4})


def test_a_hub_that_is_started_again_goes_on(site: Site) -> None:
    """From what is on the disk, with the same epochs."""
    site.orders.begin(order(), replace=False)
    site.run(6)
    epochs = {name: one.epoch for name, one in site.orders.progress("r1").nodes.items() if one.epoch}
    assert 0 < len(epochs) < 4
    site.restart()
    site.run(40)
    assert site.orders.progress("r1").status == "done"
    after = {name: one.epoch for name, one in site.orders.progress("r1").nodes.items()}
    assert {name: after[name] for name in epochs} == epochs


def test_stopped_by_a_file(site: Site) -> None:
    """The next look sees it."""
    site.orders.begin(order(), replace=False)
    site.run(5)
    site.orders.stop("r1", "by hand")
    site.run(10)
    assert (site.orders.progress("r1").status, site.orders.progress("r1").why) == ("cancelled", "by hand")
    assert site.hub.told[-1][1].undo


def test_the_next_one_tells_who_has_gone_back_from_the_first(site: Site) -> None:
    """And closes it to those that come late; epochs go up from one to the next."""
    site.orders.begin(order(), replace=False)
    site.run(6)
    site.orders.begin(order(name="r2", bundle="smol-orin-2", version=3, at_s=2.0), replace=True)
    site.run(60)
    assert site.orders.progress("r1").status == "cancelled"
    assert site.orders.progress("r2").status == "done"
    for name in site.hub.nodes:
        epochs = [desired.epoch for node, desired in site.hub.told if node == name]
        assert epochs == sorted(set(epochs))
    assert [view["name"] for view in site.carrier.views()] == ["r2", "r1"]


def test_rollouts_of_two_models_take_turns_at_a_node(site: Site) -> None:
    """There is one Desired for each node: the second tells a node only when it has ended in the first."""
    site.orders.begin(order(), replace=False)
    site.orders.begin(order(name="o1", bundle="other-1", replaces="other", at_s=2.0), replace=False)
    busy: dict[str, str] = {}
    for _ in range(60):
        before = len(site.hub.told)
        for name, node in site.hub.nodes.items():
            if node.deployment is not None and node.deployment.phase == "serving":
                busy.pop(name, None)
        site.run(1)
        for name, desired in site.hub.told[before:]:
            assert name not in busy
            busy[name] = desired.rollout
    assert {site.orders.progress(name).status for name in ("r1", "o1")} == {"done"}


def test_epochs_go_up_from_what_is_retained(site: Site) -> None:
    """What others told a node is heard; what is no Desired is not."""
    for payload in (b"", b"{", wire.encode(order().desired(17, ()))):
        for name in site.hub.nodes:
            site.carrier.heard(name, payload)
    site.orders.begin(order(), replace=False)
    site.run(4)
    assert site.hub.told[0][1].epoch == 18


def test_an_epoch_that_nodes_ignore_is_not_gone_on_from(site: Site) -> None:
    """One message of an epoch far ahead, by whomever, ends no rollouts: nodes take what the hub says after it."""
    for name in site.hub.nodes:
        site.carrier.heard(name, wire.encode(order().desired(9_000_000_000, ())))
    site.orders.begin(order(), replace=False)
    site.run(40)
    assert site.orders.progress("r1").status == "done"
    assert {desired.epoch for _, desired in site.hub.told} == {1}


def test_of_two_hubs_one_carries_out(site: Site) -> None:
    """The other shows what that one has written, and goes on with it when it ends."""
    site.orders.begin(order(), replace=False)
    site.run(6)
    other = Carrier(site.root, "http://127.0.0.1:2", settle_s=2.0)
    told = len(site.hub.told)
    site.run(3, other)
    assert len(site.hub.told) == told
    assert other.views()[0]["status"] == "active"
    site.carrier.stop()
    site.run(40, other)
    assert site.orders.progress("r1").status == "done"
    other.stop()


def test_a_disk_that_is_full_tells_nobody(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is published that is not on the disk; when there is room again, it goes on."""
    site.orders.begin(order(), replace=False)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        site.run(8)
        assert site.hub.told == []
    site.run(40)
    assert site.orders.progress("r1").status == "done"


def test_a_damaged_order_is_left_out(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, and the others go on."""
    site.orders.begin(order(), replace=False)
    (site.root / "rollouts" / "bad.json").write_text("{")
    site.run(40)
    assert site.orders.progress("r1").status == "done"
    assert sum("rollout bad is left out" in record.message for record in caplog.records) == 1
    assert [(view["name"], view["status"]) for view in site.carrier.views()] == [("bad", "damaged"), ("r1", "done")]


def test_a_damaged_order_that_was_mended_is_carried_out(site: Site) -> None:
    """Without the hub having to be started again; one that was removed is shown no more."""
    site.orders.begin(order(), replace=False)
    path = site.root / "rollouts" / "r1.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    (site.root / "rollouts" / "bad.json").write_text("{")
    site.run(5)
    assert site.hub.told == []
    (site.root / "rollouts" / "bad.json").unlink()
    path.write_bytes(whole)
    site.run(40)
    assert [(view["name"], view["status"]) for view in site.carrier.views()] == [("r1", "done")]


def test_a_hub_that_watches_shows_what_is_damaged(site: Site) -> None:
    """As the one does that carries out."""
    lock = site.orders.only_one()
    assert lock is not None
    site.orders.begin(order(), replace=False)
    (site.root / "rollouts" / "bad.json").write_text("{")
    site.run(1)
    lock.close()
    assert [(view["name"], view["status"]) for view in site.carrier.views()] == [("bad", "damaged"), ("r1", "waiting")]


def test_a_hub_without_broker_tells_nothing(site: Site) -> None:
    """And hears the fleet anew before it goes on."""
    site.orders.begin(order(), replace=False)
    site.hub.ready = False
    site.run(5)
    site.hub.ready = True
    site.run(2)
    assert site.hub.told == []
    site.run(1)
    assert len(site.hub.told) == 1


def test_what_has_ended_costs_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped rollout is looked at no more, however many there are."""
    for node in site.hub.nodes.values():
        node.course = BAD
    site.orders.begin(order(), replace=False)
    site.run(20)
    assert site.orders.progress("r1").status == "stopped"
    monkeypatch.setattr("hub.rollout.plan.Rollout.step", lambda *_: pytest.fail("was looked at"))
    site.run(3)
    assert site.carrier.views()[0]["status"] == "stopped"


def test_a_node_that_is_forgotten_is_told_to_undo(site: Site) -> None:
    """Its state was cleared while it was away: the Desired is retained for when it comes."""
    nodes = {
        "n0": NodeProgress(wave=0, stage="serving", epoch=5),
        "gone": NodeProgress(wave=0, stage="serving", epoch=7),
    }
    site.orders.begin(order(), replace=False)
    site.orders.write_progress("r1", Progress(status="active", nodes=nodes))
    site.hub.nodes["gone"] = FakeNode(there=False)
    site.orders.stop("r1", "by hand")
    call = site.hub.call
    hidden = {name: node for name, node in site.hub.nodes.items() if name != "gone"}
    site.hub.call = lambda function: FakeHub(hidden).call(function)  # type: ignore[method-assign]
    site.run(5)
    site.hub.call = call  # type: ignore[method-assign]
    assert [(name, desired.epoch) for name, desired in site.hub.told if name == "gone"] == [("gone", 8)]


@pytest.mark.parametrize(
    "url", ["ftp://hub", "hub.lan:9810", "https://hub lan", "https://" + "h" * 600, "https://", "http://hub.lan:1"]
)
def test_sources_that_are_none(url: str) -> None:
    """Refused before any node is told."""
    with pytest.raises(RolloutError, match="give one that begins with https"):
        source_of(url, "127.0.0.1:1", tls=True)


def test_the_thread(site: Site, eventually: Callable[..., None]) -> None:
    """It looks by itself, and a bad second does not end it."""
    site.orders.begin(order(to=("n0",)), replace=False)
    carrier = Carrier(site.root, "http://127.0.0.1:1", settle_s=0.0)
    call, failing = site.hub.call, [True]

    def fails_once(function: Callable[[Any, float], Any]) -> concurrent.futures.Future[Any]:
        if failing:
            failing.clear()
            raise TimeoutError
        return call(function)

    site.hub.call = fails_once  # type: ignore[method-assign]
    carrier.start(site.hub)
    try:
        eventually(lambda: len(site.hub.told) == 1)
    finally:
        carrier.stop()
    assert GOOD[-1] == "serving"
    assert msgspec.to_builtins(site.orders.progress("r1"))["nodes"]["n0"]["stage"] == "told"


def test_a_directory_that_cannot_be_used_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., None]
) -> None:
    """Not with each second again, and in one line."""
    monkeypatch.setattr("hub.rollout.carrier.LOOK_EVERY_S", 0.01)
    (tmp_path / "file").touch()
    carrier = Carrier(tmp_path / "file" / "site", "http://127.0.0.1:1")
    looks: list[float] = []
    look = carrier.look
    monkeypatch.setattr(carrier, "look", lambda hub, now: (looks.append(now), look(hub, now)))
    carrier.start(FakeHub({}))
    try:
        eventually(lambda: len(looks) > 3)
    finally:
        carrier.stop()
    (said,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert said.exc_info is None
    assert "rollouts stand still" in said.getMessage()
