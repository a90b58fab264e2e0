"""Rollouts with a real hub, a real broker and the commands; the nodes are scripted, see `fake_fleet.py`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from hub.rollout.order import Progress
from hub.rollout.orders import Orders
from tests.hub.rollout.fake_fleet import FakeFleet
from tests.hub.rollout.made import make_bundle
from tests.hub.rollout.scene import BAD, GOOD, REFUSES, FakeNode

pytestmark = [pytest.mark.broker, pytest.mark.slow]


AT_REST = {"waiting", "failed", "undone"}


class Site:
    """A hub with bundles, and the commands beside it."""

    def __init__(self, processes: Any, broker: str, root: Path, port: int) -> None:
        self.processes = processes
        self.broker = broker
        self.root = root
        self.port = port

    def start(self) -> None:
        command = ["edge-hub", "serve", "--broker", self.broker, "--name", "hub-1", "--bundles", str(self.root)]
        self.processes.start("hub", *command, "--bundles-listen", str(self.port))

    def deploy(self, bundle: Path, *options: str, timeout_s: float = 60) -> Any:
        command = ["edge-hub", "deploy", str(bundle), "--bundles", str(self.root), "--to", "all", "--trial", "5"]
        return self.processes.run(*command, *options, timeout_s=timeout_s)

    def progress(self, name: str) -> Progress:
        return Orders(self.root).progress(name)

    def status(self, name: str, *options: str) -> dict[str, Any]:
        command = ["edge-hub", "rollout", "status", name, "--bundles", str(self.root), "--json"]
        done = self.processes.run(*command, *options)
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document


@pytest.fixture
def site(processes: Any, mosquitto: Any, tmp_path: Path, free_port: Callable[[], int]) -> Site:
    return Site(processes, mosquitto.url, tmp_path / "site", free_port())


@pytest.fixture
def fleets(mosquitto: Any) -> Iterator[Callable[[dict[str, FakeNode]], FakeFleet]]:
    started: list[FakeFleet] = []

    def start(nodes: dict[str, FakeNode]) -> FakeFleet:
        started.append(FakeFleet(mosquitto.url, nodes))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_a_good_bundle_comes_to_all(site: Site, fleets: Any, eventually: Callable[..., None], tmp_path: Path) -> None:
    """In waves, over a hub that is killed and started again on the way; one that was away gets it when it comes."""
    slow = ("fetching", *["warming"] * 12, "trial", "serving")
    nodes = {f"n{number}": FakeNode(slow) for number in range(5)}
    nodes["n4"].there = False
    fleet = fleets(nodes)
    site.start()
    bundle = make_bundle(tmp_path / "v2", version=2)
    done = site.deploy(bundle, "--to", "n4", "--canary", "20%", "--name", "r2")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    told = lambda: [name for name, all_told in fleet.told.items() if all_told]  # noqa: E731
    eventually(lambda: len(told()) == 1, limit_s=20)
    first = fleet.told[told()[0]][0]
    at = f"{first.sources[0]}/blobs/{first.manifest}"
    assert httpx.get(at).content == (bundle / "manifest.json").read_bytes()
    assert httpx.get(at, headers={"Range": "bytes=2-5"}).content == (bundle / "manifest.json").read_bytes()[2:6]
    eventually(lambda: len(told()) == 2, limit_s=20)
    site.processes.kill("hub")
    site.start()
    eventually(lambda: site.progress("r2").status == "done", limit_s=40)
    assert site.status("r2", "--broker", site.broker)["phases"] == {"absent": 1, "serving": 4}
    fleet.join("n4")
    eventually(lambda: site.progress("r2").nodes["n4"].stage == "serving", limit_s=20)
    assert site.status("r2")["phases"] == {"serving": 5}
    assert {
        name: len({desired.epoch for desired in all_told}) for name, all_told in fleet.told.items()
    } == dict.fromkeys(nodes, 1)
    again = site.deploy(bundle, "--wait", "--json")
    assert (again.returncode, json.loads(again.stdout)["why"]) == (0, "5 of 5 nodes serve it"), again.stderr


def test_a_bad_canary_stops_and_the_switched_go_back(
    site: Site, fleets: Any, eventually: Callable[..., None], tmp_path: Path
) -> None:
    """`--wait` ends with 1 and says why; what was switched in the rollout is told to undo it, nobody else anything."""
    nodes = {f"n{number}": FakeNode(REFUSES if number == 3 else GOOD) for number in range(5)}
    fleet = fleets(nodes)
    site.start()
    done = site.deploy(make_bundle(tmp_path / "v2", version=2), "--canary", "60%", "--name", "r2", "--wait")
    assert done.returncode == 1
    assert "nodes failed, at most 2% may: n3: it is worse" in done.stderr
    assert "Traceback" not in done.stderr
    eventually(lambda: {one.stage for one in site.progress("r2").nodes.values()} <= AT_REST, limit_s=20)
    for name, told in fleet.told.items():
        assert [each.undo for each in told] in ([], [False], [False, True]), name
        assert nodes[name].bundles[0].version == 1
    assert any(len(told) == 2 for told in fleet.told.values())
    for node in nodes.values():
        node.course = BAD
    bad = site.deploy(make_bundle(tmp_path / "v3", version=3, extra=b"3"), "--name", "r3", "--wait")
    assert bad.returncode == 1
    assert sum(any(each.rollout == "r3" for each in told) for told in fleet.told.values()) == 1


def test_stopped_by_hand(site: Site, fleets: Any, eventually: Callable[..., None], tmp_path: Path) -> None:
    """Who is under way goes back; a second rollout is refused before that, and takes the first one's place if told."""
    nodes = {f"n{number}": FakeNode(("fetching", "warming")) for number in range(2)}
    fleet = fleets(nodes)
    site.start()
    assert site.deploy(make_bundle(tmp_path / "v2", version=2), "--name", "r2").returncode == 0
    eventually(lambda: site.status("r2", "--broker", site.broker)["phases"].get("warming") == 1, limit_s=20)
    bundle = make_bundle(tmp_path / "v3", version=3, extra=b"3")
    refused = site.deploy(bundle, "--name", "r3")
    assert (refused.returncode, "add --replace" in refused.stderr) == (1, True)
    for node in nodes.values():
        node.course = GOOD
    assert site.deploy(bundle, "--name", "r3", "--replace", "--wait").returncode == 0
    assert site.status("r2")["why"] == "replaced by r3"
    assert {node.bundles[0].version for node in nodes.values()} == {3}
    assert [each.undo for told in fleet.told.values() for each in told if each.rollout == "r2"] == [False, True]
    stop = site.processes.run("edge-hub", "rollout", "stop", "r3", "--bundles", str(site.root))
    assert (stop.returncode, "r3' is done" in stop.stderr) == (1, True)
