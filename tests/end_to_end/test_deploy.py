"""Two signed versions brought to five nodes, by TLS, in real processes; one node cannot live with the second.

Everything is done as by hand: `edge-hub provision`, `edge-export --sign`, `edge-hub serve`, `edge-agent serve`,
`edge-hub deploy`. Only the faulty node is started by a script, which lets the second version fail there.
"""

from __future__ import annotations

import concurrent.futures
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from edge_agent.manifest import Graph
from hub import wire
from hub.ask import Asker
from hub.broker_url import BrokerUrl
from tests.edge_agent.conftest import build_graph, build_tokenizer, write_tiny
from tests.secured import SecuredFleet

pytestmark = [pytest.mark.broker, pytest.mark.openssl]
BIN = Path(sys.executable).parent
FAULTY = Path(__file__).parent / "faulty_node.py"
NODES = ("n1", "n2", "n3", "n4", "n5")
PASSPHRASE = "hallway"
TRIAL_S = 6
AT_ONCE = 16


class Process:
    """A command with its log."""

    def __init__(self, log: Path, *command: str, **environment: str) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, env=environment or None)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(20)


def run(*command: str, code: int = 0) -> str:
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stdout


class Site:
    """A fleet of five nodes, with a hub, and somebody who asks all the time."""

    def __init__(self, folder: Path, fleet: SecuredFleet, port: int, eventually: Callable[..., None]) -> None:
        self.folder = folder
        self.fleet = fleet
        self.eventually = eventually
        self.store = folder / "store"
        self._port = port
        self.processes: dict[str, Process] = {}
        self.outcomes: list[wire.Answer | wire.Failure] = []
        self._enough = threading.Event()
        self._asking: threading.Thread | None = None

    @property
    def hub_config(self) -> str:
        return self.fleet.config("hub-hub")

    def start_hub(self) -> None:
        bounds = ("--device-rate", "1000/s", "--device-in-flight", "1000")
        command = ("serve", "--config", self.hub_config, *bounds, "--bundles", str(self.store))
        where = ("--bundles-listen", f"127.0.0.1:{self._port}", "--bundles-url", f"https://localhost:{self._port}")
        self.processes["hub"] = Process(self.folder / "hub.log", str(BIN / "edge-hub"), *command, *where)
        self.eventually(lambda: "takes questions" in self.processes["hub"].log, limit_s=30)

    def start_node(self, name: str, bundle: Path, *, faulty: bool = False) -> None:
        program = (sys.executable, str(FAULTY)) if faulty else (str(BIN / "edge-agent"),)
        deployments = (
            "--deployments",
            str(self.folder / f"{name}-deployments"),
            "--trust",
            str(self.folder / "sign.pub"),
        )
        options = (
            "--config",
            self.fleet.config(f"node-{name}"),
            "--bundle",
            str(bundle),
            *deployments,
            "--threads",
            "1",
        )
        self.processes[name] = Process(self.folder / f"{name}.log", *program, "serve", *options)

    def states(self) -> dict[str, dict[str, object]]:
        shown = json.loads(run("edge-hub", "nodes", "--config", self.hub_config, "--json"))
        return {node["node"]: node for node in shown}

    def serving(self) -> dict[str, tuple[str, ...]]:
        return {name: tuple(b["bundle"] for b in node["bundles"]) for name, node in self.states().items()}  # type: ignore[attr-defined]

    def deploy(self, bundle: Path, *options: str, code: int = 0) -> str:
        trial = ("--trial", str(TRIAL_S), "--max-slower", "10000%")  # the machine of a test has other work
        return run(
            "edge-hub", "deploy", str(bundle), "--bundles", str(self.store), "--config", self.hub_config, *trial,
            *options, code=code,
        )  # fmt: skip

    def status(self, name: str) -> dict[str, object]:
        whole = ("--bundles", str(self.store), "--config", self.hub_config, "--json")
        return json.loads(run("edge-hub", "rollout", "status", name, *whole))  # type: ignore[no-any-return]

    # --- somebody asks ----------------------------------------------------------------------------------

    def ask_all_the_time(self, url: BrokerUrl) -> None:
        """So many at once that every node has something to answer."""

        def ask() -> None:
            with Asker(url, "kitchen") as asker, concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:

                def one_after_another() -> None:
                    while not self._enough.is_set():
                        question = wire.Question(question="why?", max_tokens=24, deadline_ms=20_000)
                        self.outcomes.append(asker.ask(question).reply)

                for _ in range(AT_ONCE):
                    pool.submit(one_after_another)

        self._asking = threading.Thread(target=ask, daemon=True)
        self._asking.start()

    def answered_until_now(self) -> list[str]:
        """By which bundle each was answered; fails for one that was not."""
        failures = [each for each in self.outcomes if isinstance(each, wire.Failure)]
        assert not failures, failures[:3]
        return [each.bundle for each in self.outcomes if isinstance(each, wire.Answer)]

    def close(self) -> None:
        self._enough.set()
        if self._asking is not None:
            self._asking.join(30)
        for process in reversed(self.processes.values()):
            process.end()


def signed(folder: Path, name: str, seed: int, version: int, tokenizer: Path, graph: Graph | None = None) -> Path:
    """A tiny bundle, signed as a maker of bundles does it."""
    made = folder / f"{name}-made"
    (made).mkdir()
    graph_file = made / "decoder.onnx"
    built = build_graph(graph_file, seed=seed)
    bundle = write_tiny(made, (graph_file, built), tokenizer)
    run(
        "edge-export", "--bundle", str(bundle), "--sign", str(folder / "sign.pem"), "--sign-passphrase-file",
        str(folder / "passphrase"), "--version", str(version),
    )  # fmt: skip
    return bundle


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A folder with keys, and versions 1 and 2, signed."""
    folder = tmp_path_factory.mktemp("signed")
    (folder / "passphrase").write_text(PASSPHRASE)
    ec = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-aes256", "-pass", f"pass:{PASSPHRASE}")
    subprocess.run(["openssl", "genpkey", *ec, "-out", folder / "sign.pem"], check=True, capture_output=True)
    subprocess.run(
        [
            "openssl",
            "pkey",
            "-in",
            folder / "sign.pem",
            "-passin",
            f"pass:{PASSPHRASE}",
            "-pubout",
            "-out",
            folder / "sign.pub",
        ],
        check=True,
    )
    build_tokenizer(folder / "tokenizer.json")
    return folder, *(signed(folder, f"v{n}", n, n, folder / "tokenizer.json") for n in (1, 2))  # type: ignore[return-value]


@pytest.fixture
def site(
    tmp_path: Path, secured: SecuredFleet, bundles: tuple[Path, Path, Path], free_port: Callable[[], int],
    eventually: Callable[..., None],
) -> Iterator[Site]:  # fmt: skip
    secured.issue("device", "kitchen")
    secured.issue("hub", "hub", hosts=("localhost",))
    for name in NODES:
        secured.issue("node", name)
    secured.start()
    shutil.copy(bundles[0] / "sign.pub", tmp_path)
    site = Site(tmp_path, secured, free_port(), eventually)
    try:
        yield site
    finally:
        site.close()
        secured.stop()


def names(*paths: Path) -> Sequence[str]:
    return [json.loads((path / "manifest.json").read_text())["bundle_id"] for path in paths]


@pytest.mark.timeout(400)
def test_a_bad_rollout_stops_and_a_good_one_arrives(site: Site, bundles: tuple[Path, Path, Path]) -> None:
    """Where it fails it goes back by itself, and so do all others; no question is lost, and the next one arrives."""
    _, first, second = bundles
    old, new = names(first, second)
    for name in NODES:
        site.start_node(name, first, faulty=name == "n3")
    site.start_hub()
    site.eventually(lambda: site.serving() == dict.fromkeys(NODES, (old,)), limit_s=90)
    site.ask_all_the_time(site.fleet.at("device-kitchen"))

    plan = json.loads(site.deploy(second, "--to", "n3", "--to", "n1", "--dry-run", "--json"))
    assert {trip["node"] for trip in plan["nodes"]} == {"n1", "n3"}
    assert all(0 < trip["bytes"] < plan["size_bytes"] * 2 for trip in plan["nodes"])

    site.deploy(second, "--to", "all", "--canary", "100%", "--name", "bad", "--wait", code=1)
    status = site.status("bad")
    assert status["status"] == "stopped", status
    site.eventually(lambda: site.serving() == dict.fromkeys(NODES, (old,)), limit_s=60)
    phases = {name: node["deployment"]["phase"] for name, node in site.states().items()}  # type: ignore[index]
    assert phases["n3"] == "undone"
    assert "serving" not in phases.values()
    assert set(site.answered_until_now()) >= {old}

    site.deploy(
        second, *(part for name in NODES if name != "n3" for part in ("--to", name)), "--name", "good", "--wait"
    )
    expected = {name: (old if name == "n3" else new,) for name in NODES}
    assert site.serving() == expected
    before = len(site.outcomes)
    site.eventually(lambda: len(site.outcomes) > before + 20)
    assert new in site.answered_until_now()[before:]

    site.processes["n1"].kill()
    site.start_node("n1", first)
    site.eventually(
        lambda: site.processes["n1"].log.count("is at mqtts://") > 1 and site.serving() == expected, limit_s=60
    )
    site.answered_until_now()


@pytest.mark.timeout(200)
def test_two_crashes_after_the_switch_bring_the_old_bundle_back_without_a_network(
    tmp_path: Path, bundles: tuple[Path, Path, Path], free_port: Callable[[], int], eventually: Callable[..., None]
) -> None:
    """The agent is killed twice in the trial, and then the hub and its broker are gone: the old one serves, and why."""
    folder, first, second = bundles
    old, new = names(first, second)
    port, store = free_port(), str(tmp_path / "store")
    broker = f"mqtt://127.0.0.1:{port}"
    hub = Process(
        tmp_path / "hub.log", str(BIN / "edge-hub"), "serve", "--embedded-broker", str(port), "--bundles", store,
        "--bundles-listen", str(free_port()),
    )  # fmt: skip
    started: list[Process] = []

    def start_node() -> Process:
        log = tmp_path / f"node-{len(started)}.log"
        options = ("--deployments", str(tmp_path / "d"), "--trust", str(folder / "sign.pub"), "--bundle", str(first))
        command = (str(BIN / "edge-agent"), "serve", "--node", "n1", "--broker", broker, "--threads", "1", *options)
        started.append(Process(log, *command))
        return started[-1]

    try:
        eventually(lambda: "takes questions" in hub.log, limit_s=30)
        node = start_node()
        run("edge-hub", "deploy", str(second), "--bundles", store, "--to", "n1", "--trial", "3600")
        eventually(lambda: f"{new}: trial" in node.log, limit_s=60)
        node.kill()
        node = start_node()
        eventually(lambda: f"opened {new}" in node.log and "node n1 is at" in node.log, limit_s=60)
        node.kill()
        hub.end()
        node = start_node()
        eventually(lambda: f"opened {old}" in node.log, limit_s=60)
        assert f"opened {new}" not in node.log
        record = json.loads((tmp_path / "d" / "record.json").read_text())
        assert record["phase"] == "undone"
        assert "ended 2 times without a close" in record["why"]
    finally:
        for process in (*started, hub):
            process.end()
