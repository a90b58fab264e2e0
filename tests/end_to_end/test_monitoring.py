"""What Prometheus makes of hub and agent: its own checks over what both tell, and over what is shipped for it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import msgspec
import pytest

from edge_agent.api import application as agent_application
from edge_agent.service import AgentService, Own
from hub import wire
from hub.ask import Asker
from hub.fleet_gauges import FleetGauges
from hub.http_server import Address, HttpServer
from hub.metrics import Metrics
from hub.service import HubService
from hub.store.records import Records
from hub.web.app import application as hub_application
from tests.test_monitoring import PROMETHEUS, expressions_of_dashboard

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from noop_node import BUNDLE, Noop

from edge_agent.runtime.generation import OneByOne


class Scraped(msgspec.Struct, frozen=True):
    """A hub and an agent, and what they tell."""

    hub_url: str
    agent_url: str
    texts: tuple[str, str]


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
) -> Iterator[Scraped]:
    """What a hub and an agent tell once both have answered, failed and been told of own answers."""
    metrics = Metrics()
    records = Records(str(tmp_path / "fleet.sqlite"), "h")
    hub = HubService(broker_url, "h", records, listeners=[metrics])
    metrics.add(FleetGauges(hub, records.kept))
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

    eventually(lambda: "edge_hub_records_written_total 3.0" in httpx.get(f"{hub_url}/metrics").text)
    texts = httpx.get(f"{hub_url}/metrics").text, httpx.get(f"{agent_url}/metrics").text
    yield Scraped(hub_url, agent_url, texts)
    records.close()


def promtool(*arguments: str, given: str = "") -> str:
    """What promtool says; fails the test with it where it finds fault."""
    done = subprocess.run(["promtool", *arguments], input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.prometheus
def test_promtool_finds_no_fault_with_what_is_told(scraped: Scraped) -> None:
    """Names, units, types and help are by Prometheus' conventions, on the hub and on the agent."""
    for text in scraped.texts:
        assert promtool("check", "metrics", given=text) == ""


@pytest.mark.prometheus
@pytest.mark.slow
def test_a_real_prometheus_scrapes_both(
    scraped: Scraped, tmp_path: Path, free_port: Callable[[], int], eventually: Callable[..., None]
) -> None:
    """By the configuration that is shipped, with these addresses in it: both are up, no alert's rule fails, no series
    is dropped, and the dashboard's panels get an answer.
    """
    folder, port = tmp_path / "prometheus", free_port()
    shutil.copytree(PROMETHEUS, folder)
    config = folder / "prometheus.yml"
    text = config.read_text().replace("scrape_interval: 15s", "scrape_interval: 1s").replace("val: 15s", "val: 1s")
    for example, url in (("127.0.0.1:9800", scraped.hub_url), ("127.0.0.1:8080", scraped.agent_url)):
        assert example in text
        text = text.replace(f'["{example}"]', f'["{url.removeprefix("http://")}"]')
    config.write_text(text)
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    process = subprocess.Popen(
        [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def ask(what: str, **parameters: str) -> Any:
        answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/{what}", params=parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def up() -> bool:
        with contextlib.suppress(httpx.ConnectError):
            if httpx.get(f"http://127.0.0.1:{port}/-/ready").status_code != 200:
                return False
            found = {each["metric"]["job"]: each["value"][1] for each in ask("query", query="up")["result"]}
            return found == {"edge-hub": "1", "edge-agent": "1"}
        return False

    def evaluated() -> bool:
        return all(rule["health"] == "ok" for group in ask("rules")["groups"] for rule in group["rules"])

    try:
        eventually(up, limit_s=60)
        eventually(evaluated, limit_s=60)
        (node,) = ask("query", query="edge_hub_node_up")["result"]
        assert (node["metric"]["node"], node["value"][1]) == ("n1", "1")
        for expression in expressions_of_dashboard():
            ask("query", query=expression)
    finally:
        process.terminate()
        process.wait(20)


def test_hub_and_agent_share_no_name(scraped: Scraped) -> None:
    """One Prometheus may scrape both; what a name means is the same everywhere."""
    told, told_by_agent = (
        {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")} for text in scraped.texts
    )
    assert told
    assert told_by_agent
    assert not told & told_by_agent
    assert all(name.startswith("edge_hub_") for name in told)
    assert not any(name.startswith("edge_hub_") for name in told_by_agent)


def test_what_happened_is_told(scraped: Scraped) -> None:
    """One answer through the hub, one of the device's own, one failure, and the node that is up."""
    hub, agent = scraped.texts
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
