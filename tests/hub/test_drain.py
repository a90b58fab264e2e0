"""Draining a node by command, on real brokers with a real agent that answers at once or when it may."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hub import wire
from hub.ask import Asker
from hub.drain import drain
from hub.errors import LinkError, NodeError
from hub.nodes import fetch_fleet
from hub.service import HubService

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from noop_node import BUNDLE, Noop

from edge_agent.runtime.generation import Generation, OneByOne
from edge_agent.service import AgentService


class Held(Noop):
    """Answers when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may = threading.Event()
        self.asked = threading.Event()

    def answer(self, question: wire.Question, **given: Any) -> Generation:
        self.asked.set()
        assert self.may.wait(30)
        return super().answer(question, **given)


def start(url: str, running: Callable[[object], Any], eventually: Callable[..., None], **nodes: Noop) -> None:
    hub = running(HubService(url, "h", None))
    for name, answerer in nodes.items():
        running(AgentService(url, name, {BUNDLE: OneByOne(answerer)}))
    eventually(lambda: hub.service._asks.is_open)
    eventually(lambda: {name for name, one in fetch_fleet(url).nodes.items() if one.status == "ready"} == set(nodes))


def ask(asker: Asker) -> str:
    reply = asker.ask(wire.Question(question="why?")).reply
    return reply.node if isinstance(reply, wire.Answer) else reply.error.code


def test_drain_and_undo(broker_url: str, running: Callable[[object], Any], eventually: Callable[..., None]) -> None:
    """A drained node stays and takes nothing; a hub that starts later sees it, too; it is taken back."""
    start(broker_url, running, eventually, n1=Noop())
    told: list[str] = []
    with Asker(broker_url, "kitchen") as asker:
        assert ask(asker) == "n1"
        assert "n1 is drained: nothing is left" in drain(broker_url, "n1", on=True, wait_s=10, tell=told.append)
        assert told == ["node n1 takes no new questions"]
        assert "is drained" in drain(broker_url, "n1", on=True, wait_s=10, tell=told.append)
        running(HubService(broker_url, "later", None))
        assert fetch_fleet(broker_url).nodes["n1"].status == "draining"
        assert ask(asker) == "no_node"
        assert drain(broker_url, "n1", on=False, wait_s=0, tell=told.append) == "node n1 is ready and takes questions"
        eventually(lambda: ask(asker) == "n1")


def test_what_it_has_is_ended_first(
    broker_url: str, running: Callable[[object], Any], eventually: Callable[..., None]
) -> None:
    """While a question runs the command waits, and says how many are left when it may wait no longer."""
    node = Held()
    start(broker_url, running, eventually, n1=node)
    with Asker(broker_url, "kitchen") as asker:
        outcome = asker.submit(wire.Question(question="why?"))
        assert node.asked.wait(20)
        with pytest.raises(NodeError, match=r"n1 drains, but has 1 questions left after 1 s: .*--wait"):
            drain(broker_url, "n1", on=True, wait_s=1, tell=lambda line: None)
        told = threading.Event()
        said: list[str] = []
        waiting = threading.Thread(
            target=lambda: said.append(drain(broker_url, "n1", on=True, wait_s=30, tell=lambda line: told.set()))
        )
        waiting.start()
        assert told.wait(20)
        node.may.set()
        waiting.join(30)
        assert "n1 is drained" in said[0]
        assert isinstance(outcome.result(30).reply, wire.Answer)


def test_unknown_node_and_no_broker(broker_url: str, free_port: Callable[[], int]) -> None:
    """One line that names the node, or the broker, and what to do."""
    with pytest.raises(NodeError, match=r"node 'ghost' is not known at .*: `edge-hub nodes` lists who is there"):
        drain(broker_url, "ghost", on=True, wait_s=1, tell=print)
    with pytest.raises(LinkError, match="is a broker running there"):
        drain(f"mqtt://127.0.0.1:{free_port()}", "n1", on=True, wait_s=1, tell=print)


def test_command(
    broker_url: str, bin_folder: Path, running: Callable[[object], Any], eventually: Callable[..., None]
) -> None:
    """What happened goes to stdout, progress to stderr; a node that is not there is one line and exit code 1."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [bin_folder / "edge-hub", "drain", *arguments, "--broker", broker_url]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    start(broker_url, running, eventually, n1=Noop())
    done = run("n1")
    assert (done.returncode, done.stderr) == (0, "node n1 takes no new questions\n")
    assert done.stdout.startswith("node n1 is drained")
    assert run("n1", "--undo").stdout == "node n1 is ready and takes questions\n"
    unknown = run("ghost")
    assert (unknown.returncode, unknown.stdout, unknown.stderr.count("\n")) == (1, "", 1)
    assert unknown.stderr.startswith("edge-hub: node 'ghost' is not known")
    assert run("a/b").returncode == 2
