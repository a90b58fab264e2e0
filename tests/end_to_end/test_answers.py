"""The real model behind the real commands on real brokers: right answers, from the node with the least delay."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.model, pytest.mark.slow]

PARIS = "What is the capital of France?"
SHORT = ("--max-tokens", "12")
STORY = "Write a long story about a lighthouse keeper and the sea."


def terms(decision: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Each candidate's terms by node."""
    return {candidate["node"]: candidate for candidate in decision["candidates"]}


def test_paris(processes: Any, broker_url: str, bundle: Path) -> None:
    """The answer is right, says where it comes from, and its stages add up to the whole."""
    processes.hub(broker_url)
    processes.node("n1", bundle, broker_url)
    processes.wait_for(broker_url, "n1")
    document = processes.ask(PARIS, broker_url)
    assert "Paris" in document["text"]
    assert (document["node"], document["finish"], document["attempts"]) == ("n1", "stop", 1)
    assert document["tokens"]["prompt"] == 37
    timing = document["timing_ms"]
    stages = timing["network"] + timing["queue"] + timing["prefill"] + timing["decode"]
    assert stages == pytest.approx(timing["total"], rel=0.05, abs=5)


def test_near_then_free(
    processes: Any, broker_url: str, bundle: Path, free_port: Callable[[], int], eventually: Callable[..., None]
) -> None:
    """With unlike links the near node is chosen; once it is busy, the far one; the numbers say why.

    The far one is half a long answer away, at the speed of this machine: two measurements of one noisy processor may
    differ by nearly as much before the near one is not the soonest, and the wait behind a long answer is twice that.
    """
    processes.hub(broker_url)
    processes.node("near", bundle, broker_url, "--parallel", "1")  # one question keeps it busy
    processes.wait_for(broker_url, "near")

    def ask_long() -> dict[str, Any]:
        return processes.ask(STORY, broker_url, "--max-tokens", "70", device="library")

    distance_ms = ask_long()["timing_ms"]["decode"] / 2
    slow = processes.slow_link(broker_url, free_port(), distance_ms / 2)
    processes.node("far", bundle, slow, "--parallel", "1")
    processes.wait_for(broker_url, "far")

    def goes_near() -> bool:
        """Until the first pong the hub takes the far one to be nearer than it is."""
        first = processes.ask(PARIS, broker_url, *SHORT)
        assert "Paris" in first["text"]
        idle = terms(processes.decisions(first["id"])[0])
        measured_ms = idle["far"]["network_ms"] - idle["near"]["network_ms"]
        return bool(first["node"] == "near" and measured_ms == pytest.approx(distance_ms, rel=0.1))

    eventually(goes_near, limit_s=20)

    long: dict[str, Any] = {}
    asking = threading.Thread(target=lambda: long.update(ask_long()))
    asking.start()
    eventually(lambda: processes.log("hub").count("question library/") == 2, limit_s=20)
    second = processes.ask(PARIS, broker_url, *SHORT)
    asking.join()
    assert "Paris" in second["text"]
    assert (long["node"], second["node"]) == ("near", "far")
    busy = terms(processes.decisions(second["id"])[0])
    assert busy["near"]["wait_ms"] > busy["far"]["network_ms"] - busy["near"]["network_ms"]


def test_node_killed_in_mid_answer(
    processes: Any, broker_url: str, bundle: Path, eventually: Callable[..., None]
) -> None:
    """A node that dies while it answers costs time, not the question: the other node answers it."""
    processes.hub(broker_url)
    for name in ("n1", "n2"):
        processes.node(name, bundle, broker_url)
    processes.wait_for(broker_url, "n1", "n2")
    outcome: dict[str, Any] = {}
    asking = threading.Thread(target=lambda: outcome.update(processes.ask(STORY, broker_url, "--max-tokens", "50")))
    asking.start()
    eventually(lambda: " attempt 1 -> " in processes.log("hub"), limit_s=20)
    (victim,) = re.findall(r"question kitchen/\S+ attempt 1 -> (\w+):", processes.log("hub"))
    processes.kill(victim)
    asking.join()
    assert outcome["node"] != victim
    assert outcome["attempts"] == 2
    assert outcome["tokens"]["completion"] == 50


@pytest.mark.broker
def test_hub_killed_and_started_again(processes: Any, mosquitto: Any, bundle: Path) -> None:
    """Questions asked before, while and after the hub is dead are all answered."""
    processes.hub(mosquitto.url)
    processes.node("n1", bundle, mosquitto.url)
    processes.wait_for(mosquitto.url, "n1")
    assert "Paris" in processes.ask(PARIS, mosquitto.url)["text"]
    outcomes: list[dict[str, Any]] = []
    threads = [
        threading.Thread(
            target=lambda number=number: outcomes.append(processes.ask(PARIS, mosquitto.url, device=f"d{number}"))
        )
        for number in range(6)
    ]
    for thread in threads[:3]:
        thread.start()
    processes.kill("hub")
    for thread in threads[3:]:
        thread.start()
    processes.hub(mosquitto.url)
    for thread in threads:
        thread.join()
    assert len(outcomes) == 6
    assert all("Paris" in outcome.get("text", "") for outcome in outcomes), outcomes


def test_report_tells_what_happened(processes: Any, broker_url: str, bundle: Path) -> None:
    """The report counts the questions and its stages agree with the askers' own clocks."""
    processes.hub(broker_url)
    processes.node("n1", bundle, broker_url)
    processes.wait_for(broker_url, "n1")
    totals = sorted(processes.ask(PARIS, broker_url)["timing_ms"]["total"] for _ in range(3))
    assert processes.end("hub") == 0
    done = processes.run("edge-hub", "report", "--store", processes.store, "--format", "json")
    fleet = json.loads(done.stdout)["fleet"]
    assert (fleet["questions"], fleet["answered"], fleet["failed"]) == (3, 3, 0)
    assert fleet["latency_ms"]["p50"] == pytest.approx(totals[1], rel=0.1, abs=20)
