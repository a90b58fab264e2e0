"""`edge-hub deploy`, `rollout` and `bundles`: what is written, what is said, and what is refused."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hub import rollout_cli, wire
from hub.cli import main
from hub.nodes import Fleet
from hub.rollout.order import NodeProgress, Progress
from hub.rollout.orders import Orders
from tests.hub.rollout.made import make_bundle
from tests.hub.rollout.scene import served


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "site"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "v2", version=2)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def deploy(bundle: Path, root: Path, *options: object) -> Result:
    return run("deploy", bundle, "--bundles", root, *options)


def shown(done: Result) -> Any:
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_an_order_is_written(bundle: Path, root: Path) -> None:
    """With what was asked for; by default it goes to the nodes of the bundle's own profile."""
    options = ["--canary", "25%", "--max-failure", "0.05", "--max-slower", "150%", "--trial", "9", "--silent", "60"]
    done = deploy(bundle, root, *options)
    assert (done.exit_code, done.stdout) == (0, "")
    assert "rollout smol-v2 is ordered: smol-orin-" in done.stderr
    order = Orders(root).order("smol-v2")
    assert (order.to, order.canary, order.max_failure, order.silent_s) == (("profile:orin",), 0.25, 0.05, 60.0)
    assert (order.trial.max_failure, order.trial.max_slower, order.trial.seconds) == (0.05, 1.5, 9.0)
    assert (order.replaces, order.version) == ("smol", 2)
    assert (root / "blobs" / order.manifest).read_bytes() == (bundle / "manifest.json").read_bytes()
    assert order.signature is not None
    assert (root / "blobs" / order.signature).read_bytes() == (bundle / "model.sig").read_bytes()


def test_the_hubs_own_file_names_no_rollout(tmp_path: Path, bundle: Path, root: Path) -> None:
    """What `edge-hub provision hub` writes has the name of the hub; each rollout has its own all the same."""
    config = tmp_path / "config.toml"
    config.write_text(f'broker = "mqtt://127.0.0.1:1"\nname = "hub"\nbundles = "{root}"\n')
    done = run("deploy", bundle, "--config", config, "--json")
    assert shown(done)["name"] == "smol-v2"


def test_again(bundle: Path, root: Path) -> None:
    """While the first is not over a second is refused, or takes its place; its name is another one."""
    assert deploy(bundle, root).exit_code == 0
    refused = deploy(bundle, root)
    assert (refused.exit_code, "--replace" in refused.stderr) == (1, True)
    done = deploy(bundle, root, "--replace", "--to", "all", "--to", "n1", "--replaces", "smol", "--json")
    document = shown(done)
    assert (document["name"], document["status"], document["nodes"]) == ("smol-v2-2", "waiting", [])
    assert Orders(root).stop_of("smol-v2") == "replaced by smol-v2-2"


def test_unsigned_only_if_told_so(tmp_path: Path, root: Path) -> None:
    """Nothing is copied before."""
    bundle = make_bundle(tmp_path / "v1", signed=False)
    refused = deploy(bundle, root)
    assert (refused.exit_code, "is not signed" in refused.stderr) == (1, True)
    assert not root.exists()
    assert deploy(bundle, root, "--unsigned").exit_code == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--to", "a/b"], "names nobody"), (["--name", "a b"], "cannot name a rollout"),
        (["--to", "profile:"], "names nobody"),
    ],
)  # fmt: skip
def test_what_cannot_be(bundle: Path, root: Path, options: list[str], said: str) -> None:
    """One line, exit code 1."""
    done = deploy(bundle, root, *options)
    assert (done.exit_code, said in done.stderr) == (1, True)
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "options",
    [["--canary", "0%"], ["--canary", "101%"], ["--canary", "x"], ["--max-failure", "-1%"], ["--max-failure", "nan"],
     ["--max-slower", "inf"], ["--max-slower", "20"], ["--trial", "0"], ["--dry-run", "--wait"]],
)  # fmt: skip
def test_wrong_use(bundle: Path, root: Path, options: list[str]) -> None:
    """Exit code 2."""
    assert deploy(bundle, root, *options).exit_code == 2
    assert not root.exists()


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> dict[str, wire.NodeState]:
    """What the broker would tell."""
    states: dict[str, wire.NodeState] = {}
    monkeypatch.setattr("hub.nodes.fetch_fleet", lambda broker: Fleet(states, {}))
    return states


def state(*bundles: wire.ServedBundle, **fields: Any) -> wire.NodeState:
    return wire.NodeState(epoch=1, status="ready", bundles=bundles, deploys=True, profile="orin", **fields)


def test_dry_run(tmp_path: Path, bundle: Path, root: Path, fleet: dict[str, wire.NodeState]) -> None:
    """Who, when and how many bytes; nothing is written."""
    old = make_bundle(tmp_path / "v1", version=1, more=b"old")
    assert deploy(old, root).exit_code == 0
    before = sorted(path for path in root.rglob("*") if path.is_file())
    bundle_id = Orders(root).order("smol-v1").bundle
    fleet.update({"n1": state(served(bundle_id, 1)), "n2": state(served("unknown", 1))})
    document = shown(deploy(bundle, root, "--dry-run", "--json"))
    travels = {node["node"]: node["bytes"] for node in document["nodes"]}
    assert travels["n2"] == document["size_bytes"] > 100_000
    assert 0 < travels["n1"] < 1000
    text = deploy(bundle, root, "--dry-run").stdout
    assert "would go to 2 nodes in 2 waves: 101.1 kB travel" in text
    assert sorted(path for path in root.rglob("*") if path.is_file()) == before


def test_status(bundle: Path, root: Path, fleet: dict[str, wire.NodeState]) -> None:
    """Of one with its nodes, of all in a line each; with a broker as the nodes are now."""
    assert deploy(bundle, root).exit_code == 0
    nodes = {"n1": NodeProgress(wave=0, stage="told", epoch=1, phase="fetching"), "n2": NodeProgress(wave=1)}
    Orders(root).write_progress("smol-v2", Progress(status="active", nodes=nodes))
    one = shown(run("rollout", "status", "smol-v2", "--bundles", root, "--json"))
    assert [(node["node"], node["phase"]) for node in one["nodes"]] == [("n1", "fetching"), ("n2", "queued")]
    said = wire.Deployment(epoch=1, rollout="smol-v2", bundle="b", version=2, phase="trial", progress=0.5)
    fleet["n1"] = state(deployment=said)
    text = run("rollout", "status", "smol-v2", "--bundles", root, "--broker", "mqtt://h").stdout
    assert "trial 50%" in text
    assert "absent" in text
    assert [each["name"] for each in shown(run("rollout", "status", "--bundles", root, "--json"))] == ["smol-v2"]
    assert "active" in run("rollout", "status", "--bundles", root).stdout
    missing = run("rollout", "status", "none", "--bundles", root)
    assert (missing.exit_code, "there is no rollout 'none'" in missing.stderr) == (1, True)


def test_one_that_is_damaged(tmp_path: Path, bundle: Path, root: Path) -> None:
    """Is shown as that, and holds up no other; asked for by its name, it fails."""
    assert deploy(bundle, root, "--name", "bad").exit_code == 0
    (root / "rollouts" / "bad.json").write_text('{"name":')
    assert deploy(make_bundle(tmp_path / "v3", version=3), root, "--name", "good").exit_code == 0
    good, bad = shown(run("rollout", "status", "--bundles", root, "--json"))
    assert (good["name"], good["status"]) == ("good", "waiting")
    assert (bad["name"], bad["status"], good.keys() - bad.keys()) == ("bad", "damaged", set())
    assert "damaged" in run("rollout", "status", "--bundles", root).stdout
    done = run("rollout", "status", "bad", "--bundles", root)
    assert (done.exit_code, done.stderr.count("is damaged")) == (1, 1)


def test_stop(bundle: Path, root: Path) -> None:
    """It is written that somebody wants it; one that is not there cannot be stopped."""
    assert deploy(bundle, root).exit_code == 0
    assert run("rollout", "stop", "smol-v2", "--bundles", root).exit_code == 0
    assert Orders(root).stop_of("smol-v2") == "stopped by hand"
    assert run("rollout", "stop", "none", "--bundles", root).exit_code == 1


@pytest.mark.parametrize(("status", "code"), [("done", 0), ("stopped", 1), ("cancelled", 1)])
def test_waiting_for_the_end(bundle: Path, root: Path, monkeypatch: pytest.MonkeyPatch, status: Any, code: int) -> None:
    """Each change is one line; the exit code says how it ended."""
    monkeypatch.setattr(rollout_cli, "LOOK_EVERY_S", 0.01)
    begun = threading.Event()
    begin = Orders.begin

    def begins(self: Orders, *args: Any, **options: Any) -> None:
        begin(self, *args, **options)
        begun.set()

    monkeypatch.setattr(Orders, "begin", begins)

    def carry_out() -> None:
        begun.wait(10)
        nodes = {"n1": NodeProgress(wave=0, stage="told", epoch=1)}
        Orders(root).write_progress("smol-v2", Progress(status="active", nodes=nodes))
        Orders(root).write_progress("smol-v2", Progress(status=status, why="because", nodes=nodes))

    thread = threading.Thread(target=carry_out)
    thread.start()
    done = deploy(bundle, root, "--wait")
    thread.join()
    assert done.exit_code == code
    assert f"rollout smol-v2 is {status} (because)" in done.stderr


def test_bundles(tmp_path: Path, bundle: Path, root: Path) -> None:
    """What there is; one that is on its way stays, another goes with its files."""
    assert deploy(bundle, root).exit_code == 0
    (one,) = shown(run("bundles", "--bundles", root, "--json"))
    name = f"{one['bundle']}-v2"
    assert name in run("bundles", "--bundles", root).stdout
    refused = run("bundles", "--bundles", root, "--remove", name)
    assert (refused.exit_code, "is bringing" in refused.stderr) == (1, True)
    Orders(root).write_progress("smol-v2", Progress(status="stopped"))
    freed = run("bundles", "--bundles", root, "--remove", name)
    assert (freed.exit_code, "kB are free" in freed.stderr) == (0, True)
    assert list((root / "blobs").iterdir()) == []
    assert shown(run("bundles", "--bundles", root, "--json")) == []


def test_a_wrong_directory_is_not_made(tmp_path: Path) -> None:
    """Who only looks writes nothing."""
    assert run("rollout", "status", "--bundles", tmp_path / "typo").exit_code == 0
    assert run("bundles", "--bundles", tmp_path / "typo").exit_code == 0
    assert not (tmp_path / "typo").exists()
