"""The fleet latency report of a real fleet agrees with the askers' own clocks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hub import wire
from hub.ask import Asker
from hub.report.filter import Filter
from hub.store.reading import read_history

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.broker]

ASKED = 100  # by each of two devices
QUESTIONS = ("What is the capital of France?", "Why is the sky blue?", "Name a river in Africa, please.")
FAR_MS, HALL_MS = 30.0, 12.0  # one way


def ask_all(url: str, device: str, took_ms: list[float], half: threading.Barrier) -> None:
    """One question after the other; the delay of each by this clock."""
    with Asker(url, device) as asker:
        for number in range(ASKED):
            if number == ASKED // 2:
                half.wait(60)
            question = wire.Question(question=QUESTIONS[number % 3], max_tokens=4 + number % 9, stream=True)
            outcome = asker.ask(question)
            assert isinstance(outcome.reply, wire.Answer), outcome.reply
            took_ms.append(outcome.total_ms)


def test_report_agrees_with_the_askers(
    processes: Any, mosquitto: Any, bundle: Path, free_port: Callable[[], int]
) -> None:
    """Two nodes and two devices behind unlike links, 200 questions, the hub restarted in the middle.

    Counts are exact, the percentiles are those of the askers, and the stages sum to the whole: also the part that no
    hub can see, which is the link of the device that is further away.
    """
    url = mosquitto.url
    processes.hub(url)
    processes.node("near", bundle, url, "--parallel", "1")  # so that one question makes the other wait
    processes.wait_for(url, "near")
    processes.node("far", bundle, processes.slow_link(url, free_port(), FAR_MS), "--parallel", "1")
    processes.wait_for(url, "far")
    took_ms: dict[str, list[float]] = {"kitchen": [], "hall": []}
    urls = {"kitchen": url, "hall": processes.slow_link(url, free_port(), HALL_MS)}
    half = threading.Barrier(3)
    askers = [
        threading.Thread(target=ask_all, args=(urls[device], device, took_ms[device], half)) for device in took_ms
    ]
    for asker in askers:
        asker.start()
    half.wait(100)
    assert processes.end("hub") == 0
    processes.hub(url)
    for asker in askers:
        asker.join()
    assert processes.end("hub") == 0
    report = processes.report("--device", "kitchen", "--device", "hall")

    fleet, delays_ms = report["fleet"], np.array([*took_ms["kitchen"], *took_ms["hall"]])
    assert (fleet["questions"], fleet["answered"], fleet["failed"]) == (2 * ASKED, 2 * ASKED, 0)
    assert report["missing"] == {"answers": 0, "lost": 0, "why": []}
    assert fleet["told"] >= 2 * ASKED - 2 - fleet["partial"]  # nobody tells of the last questions
    for name, percent in (("p50", 50), ("p95", 95)):
        expected_ms = float(np.percentile(delays_ms, percent))
        assert fleet["latency_ms"][name] == pytest.approx(expected_ms, rel=0.05, abs=2.0), name
    assert sum(fleet["stages_ms"].values()) == pytest.approx(fleet["latency_ms"]["mean"], rel=0.03)
    history, _ = read_history(processes.store, Filter())
    access_ms = {name: (history.asker_ms - history.total_ms)[history.device.are(name)] for name in took_ms}
    assert np.nanmedian(access_ms["hall"]) - np.nanmedian(access_ms["kitchen"]) == pytest.approx(2 * HALL_MS, rel=0.5)
    assert {part["name"] for part in report["nodes"]} == {"near", "far"}
    for part in report["devices"]:
        assert part["latency_ms"]["p50"] == pytest.approx(np.median(took_ms[part["name"]]), rel=0.05, abs=2.0)
