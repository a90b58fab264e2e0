"""What is shipped for Prometheus and Grafana speaks of what hub and agent tell, and docs/monitoring.md of all of it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.metrics import Metrics as AgentMetrics
from hub import wire
from hub.fleet import Standing
from hub.fleet_gauges import FleetGauges
from hub.metrics import Metrics
from hub.rollout.gauges import RolloutGauges
from hub.rollout.order import Progress
from hub.rollout.view import summary
from hub.store.records import Kept
from tests.hub.rollout.scene import order
from tests.hub.test_fleet_gauges import Still, node

ROOT = Path(__file__).resolve().parent.parent
DASHBOARD = ROOT / "docs" / "grafana" / "edgefleet.json"
PROMETHEUS = ROOT / "docs" / "prometheus"
DOCUMENT = ROOT / "docs" / "monitoring.md"
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def full_machine() -> wire.Machine:
    """A machine that tells everything."""
    return wire.Machine(
        tokens_per_s=1.0, first_token_ms=1.0, prompt_cached=0.5, cpu=0.5, memory_available_bytes=1, resident_bytes=1,
        temperature_c=40.0, gpu=0.5, power_w=5.0, throttled=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    """Type by name of all that a hub and an agent can tell."""
    hub = Metrics()
    hub.add(FleetGauges(Still(node("a", Standing.READY, network_ms=1.0)), lambda: Kept(0, 0, 0)))
    hub.add(RolloutGauges(lambda: (summary(order(), Progress(), []),)))
    agent = AgentMetrics(lambda: wire.NodeState(epoch=1, status="ready", machine=full_machine()), lambda: (0, 0))
    text = (hub.exposition() + agent.exposition()).decode()
    types = dict(line.split()[2:] for line in text.splitlines() if line.startswith("# TYPE"))
    return {name: kind for name, kind in types.items() if not name.endswith("_created")}


def series(told: dict[str, str]) -> set[str]:
    """Every name that an expression may use."""
    return {name if kind == "counter" else name + suffix for name, kind in told.items() for suffix in SUFFIXES[kind]}


def names_in(expression: str) -> set[str]:
    """What an expression asks for: its words that are metrics of ours."""
    return set(re.findall(r"\bedge_[a-z0-9_:]+", expression))


def expressions_of_dashboard() -> Iterator[str]:
    """Of every panel and variable, with Grafana's own variables filled in."""
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"].replace("$__rate_interval", "1m").replace("$hub", ".*").replace("$agent", ".*")


def promtool(*arguments: str | Path) -> str:
    """What promtool says; fails the test with it where it finds fault."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_document_has_every_metric_and_its_type(told: dict[str, str]) -> None:
    """And none that there is not."""
    rows = re.findall(r"^\| `(edge_\w+)` \| (\w+) \|", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    assert dict(rows) == told
    assert len(rows) == len(told)


def test_labels_in_the_document_are_those_of_the_code() -> None:
    """Of what a hub counts."""
    rows = re.findall(r"^\| `(edge_hub_\w+)` \| \w+ \|([a-z, ]*)\|", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    documented = {name: {label.strip() for label in labels.split(",") if label.strip()} for name, labels in rows}
    registry = Metrics()._registry
    for collector in registry._collector_to_names:
        (family,) = list(collector.collect())
        name = family.name + ("_total" if family.type == "counter" else "")
        assert documented[name] == set(collector._labelnames), name  # type: ignore[attr-defined]


def test_the_dashboard_asks_only_for_what_is_told(told: dict[str, str]) -> None:
    """In every panel; and nearly all that is told is on it."""
    asked = {name for expression in expressions_of_dashboard() for name in names_in(expression)}
    assert asked
    assert asked <= series(told)
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    missing = set(told) - shown
    assert not {name for name in missing if name.startswith("edge_hub_")}
    assert len(missing) <= 6


def test_the_variables_of_the_dashboard_are_of_what_is_told(told: dict[str, str]) -> None:
    """Hubs and nodes to choose from."""
    variables = [
        each for each in json.loads(DASHBOARD.read_text("utf-8"))["templating"]["list"] if each["type"] == "query"
    ]
    asked = {name for variable in variables for name in names_in(variable["query"]["query"])}
    assert len(asked) == len(variables) == 2
    assert asked <= series(told)


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    """Current schema, ids and places of their own, a data source to choose, and no id of a machine's own."""
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    panels = dashboard["panels"]
    assert dashboard["schemaVersion"] >= 39
    assert dashboard["uid"] == "edgefleet"
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        covered = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not covered & cells, panel["title"]
        cells |= covered
        if panel["type"] != "row":
            assert panel["description"], panel["title"]
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", DASHBOARD.read_text("utf-8")))
    assert used - {"__rate_interval", "__all"} == variables


def test_alerts_ask_only_for_what_is_told(told: dict[str, str]) -> None:
    """Or for what rules beside them record; the document has each alert."""
    text = (PROMETHEUS / "alerts.yml").read_text("utf-8")
    recorded = set(re.findall(r"record: (\S+)", text))
    expressions = re.sub(r"(?m)^\s*#.*$|summary:.*|description:[^\n]*(\n\s{12,}[^\n]*)*|alert:.*|job=\S+", "", text)
    asked = names_in(expressions)
    assert recorded <= asked
    assert asked - recorded <= series(told)
    alerts = re.findall(r"alert: (\w+)", text)
    assert re.findall(r"^\| `(Edge\w+)` \|", DOCUMENT.read_text("utf-8"), re.MULTILINE) == alerts


def test_the_objective_is_a_bucket_of_the_histogram() -> None:
    """An alert on a bucket that is not there would never end, or never begin."""
    metrics = Metrics()
    metrics._of_models.of("m")
    text = (PROMETHEUS / "alerts.yml").read_text("utf-8") + DASHBOARD.read_text("utf-8").replace('\\"', '"')
    wanted = set(re.findall(r'le="([^"]+)"', text))
    assert wanted
    assert all(
        f'edge_hub_question_seconds_bucket{{le="{le}",model="m"}}' in metrics.exposition().decode() for le in wanted
    )


@pytest.mark.prometheus
def test_promtool_takes_rules_and_configuration() -> None:
    """Alerts, what they record, and the example of a configuration."""
    assert "14 rules found" in promtool("check", "rules", PROMETHEUS / "alerts.yml")
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


@pytest.mark.prometheus
def test_every_alert_fires() -> None:
    """On what it is for, and not on what it is not for; none is without such a test."""
    promtool("test", "rules", PROMETHEUS / "alerts_test.yml")
    alerts = set(re.findall(r"alert: (\w+)", (PROMETHEUS / "alerts.yml").read_text("utf-8")))
    tests = (PROMETHEUS / "alerts_test.yml").read_text("utf-8")
    fired = set(re.findall(r"alertname: (\w+)\n\s+exp_alerts:\n", tests))
    assert fired == alerts


@pytest.mark.prometheus
def test_prometheus_can_read_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    """As a rule each, which promtool parses."""
    rules: list[dict[str, Any]] = [
        {"record": f"panel:{number}", "expr": expression}
        for number, expression in enumerate(expressions_of_dashboard())
    ]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", tmp_path / "rules.yml")
