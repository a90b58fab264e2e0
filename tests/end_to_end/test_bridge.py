"""A site whose broker is bridged to the hub's, with the configuration that docs/scaling.md gives."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hub import wire
from hub.ask import Asker
from tests.conftest import Mosquitto

pytestmark = pytest.mark.broker
SCALING = Path(__file__).resolve().parents[2] / "docs" / "scaling.md"


@pytest.fixture
def site(tmp_path: Path, mosquitto: Any, free_port: Callable[[], int]) -> Iterator[Mosquitto]:
    """A broker that is bridged to `mosquitto`."""
    found = re.search(r"```conf\n(.*?)```", SCALING.read_text("utf-8"), re.DOTALL)
    assert found is not None
    bridge = found[1].replace("central.example:1883", f"127.0.0.1:{mosquitto.port}")
    folder = tmp_path / "site"
    folder.mkdir()
    broker = Mosquitto(folder, free_port())
    with (folder / "mosquitto.conf").open("a") as config:
        config.write(bridge)
    broker.start()
    yield broker
    broker.stop()


def answers(url: str, questions: int) -> set[str]:
    """Ask so many at once, and tell which nodes answered."""
    with Asker(url, "kitchen") as asker:
        futures = [asker.submit(wire.Question(question="Why?")) for _ in range(questions)]
        replies = [future.result(30).reply for future in futures]
    assert [reply for reply in replies if not isinstance(reply, wire.Answer)] == []
    return {reply.node for reply in replies if isinstance(reply, wire.Answer)}


def test_devices_and_nodes_on_both_sides_of_a_bridge(processes: Any, mosquitto: Any, site: Mosquitto) -> None:
    """A device is answered by nodes of its own site and of the other one, wherever it is."""
    processes.hub(mosquitto.url)
    for name, url in (("there", mosquitto.url), ("here", site.url)):
        command = ("python", "benchmarks/noop_node.py", "--broker", url, "--node", name)
        processes.start(name, *command, "--answer-ms", "50", "--parallel", "1")
    processes.wait_for(mosquitto.url, "there", "here")
    for url in (mosquitto.url, site.url):
        processes.eventually(lambda url=url: answers(url, 8) == {"there", "here"}, limit_s=30)
    assert processes.ask("Why?", site.url)["text"] == "Why?"
    processes.kill("here")
    assert answers(site.url, 8) == {"there"}
