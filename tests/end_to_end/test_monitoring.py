"""What Prometheus makes of hub and agent: its own checks over what both tell, and over what is shipped for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from edge_agent.api import application as agent_application
from edge_agent.service import AgentService, Own
from hub import wire
from hub.ask import Asker
from hub.fleet_gauges import FleetGauges, Kept
from hub.http_server import Address, HttpServer
from hub.metrics import Metrics
from hub.service import HubService
from hub.web.app import application as hub_application

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from noop_node import BUNDLE, Noop

from edge_agent.runtime.generation import OneByOne


@pytest.fixture
def http() -> Iterator[Callable[[Any], str]]:
    """Serve applications; the URL of each."""
    servers: list[HttpServer] = []

    def serve(application: Any) -> str:
        servers.append(HttpServer(application, Address("127.0.0.1", 0)))
        servers[-1].start()
        return f"http://{servers[-1].address}"

    yield serve
    for server in servers:
        server.stop()


@pytest.fixture
def scraped(
    broker_url: str,
    running: Callable[[object], Any],
    http: Callable[[Any], str],
    eventually: Callable[..., None],
    tmp_path: Path,
) -> tuple[str, str]:
    """What a hub and an agent tell once both have answered, failed and been told of own answers."""
    metrics = Metrics()
    hub = HubService(broker_url, "h", None, listeners=[metrics])
    metrics.add(FleetGauges(hub, lambda: Kept(written=3, lost=0)))
    agent = AgentService(
        broker_url, "n1", {BUNDLE: OneByOne(Noop())}, own=Own(margin_ms=1e9, records=tmp_path / "records.db")
    )
    running(hub)
    running(agent)
    eventually(lambda: hub.ready and agent._link.is_open)
    hub_url, agent_url = http(hub_application(hub, metrics.exposition)), http(agent_application(agent))
    with Asker(broker_url, "kitchen") as asker:
        assert isinstance(asker.ask(wire.Question(question="why?")).reply, wire.Answer)
        assert isinstance(asker.ask(wire.Question(question="?", model="other")).reply, wire.Failure)
    asked = {"model": BUNDLE, "messages": [{"role": "user", "content": "why?"}]}
    assert httpx.post(f"{agent_url}/v1/chat/completions", json=asked).status_code == 200

    def own_answer_is_known() -> bool:
        return 'edge_hub_questions_total{origin="node",outcome="answered"}' in httpx.get(f"{hub_url}/metrics").text

    eventually(own_answer_is_known)
    return httpx.get(f"{hub_url}/metrics").text, httpx.get(f"{agent_url}/metrics").text


def promtool(*arguments: str, given: str = "") -> str:
    """What promtool says; fails the test with it where it finds fault."""
    done = subprocess.run(["promtool", *arguments], input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.prometheus
def test_promtool_finds_no_fault_with_what_is_told(scraped: tuple[str, str]) -> None:
    """Names, units, types and help are by Prometheus' conventions, on the hub and on the agent."""
    for text in scraped:
        assert promtool("check", "metrics", given=text) == ""


def test_hub_and_agent_share_no_name(scraped: tuple[str, str]) -> None:
    """One Prometheus may scrape both; what a name means is the same everywhere."""
    told, told_by_agent = (
        {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")} for text in scraped
    )
    assert told
    assert told_by_agent
    assert not told & told_by_agent
    assert all(name.startswith("edge_hub_") for name in told)
    assert not any(name.startswith("edge_hub_") for name in told_by_agent)


def test_what_happened_is_told(scraped: tuple[str, str]) -> None:
    """One answer through the hub, one of the device's own, one failure, and the node that is up."""
    hub, agent = scraped
    for line in (
        'edge_hub_questions_total{origin="hub",outcome="answered"} 1.0',
        'edge_hub_questions_total{origin="hub",outcome="unsupported"} 1.0',
        'edge_hub_question_seconds_count{model="noop"} 1.0',
        'edge_hub_node_up{node="n1"} 1.0',
        'edge_hub_nodes{standing="ready"} 1.0',
        "edge_hub_ready 1.0",
        "edge_hub_records_written_total 3.0",
    ):
        assert line in hub
    assert f'edge_questions_total{{bundle="{BUNDLE}",origin="here",outcome="answered"}} 1.0' in agent
    assert f'edge_questions_total{{bundle="{BUNDLE}",origin="fleet",outcome="answered"}} 1.0' in agent
