"""Models that write no text, in a fleet: asked over MQTT, on a real broker, beside each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.edge_agent.encoder_bundles import encoder_bundle


@pytest.mark.slow
def test_each_task_is_answered_by_who_does_it(processes: Any, broker_url: str, tmp_path: Path) -> None:
    """Labels, spans, a vector and an answer from a passage; a question for text finds nobody here."""
    bundles = [
        encoder_bundle(tmp_path / "c", "text-classification", {"good": (2.0, 0.0)}, labels=("yes", "no")),
        encoder_bundle(tmp_path / "t", "token-classification", {"good": (0.0, 5.0)}, labels=("O", "B-GOOD")),
        encoder_bundle(tmp_path / "f", "feature-extraction", {"good": (3.0, 4.0)}),
        encoder_bundle(tmp_path / "q", "question-answering", {"good": (5.0, 5.0)}),
    ]
    processes.hub(broker_url)
    more = [word for bundle in bundles[1:] for word in ("--bundle", str(bundle))]
    processes.node("n", bundles[0], broker_url, *more)
    processes.wait_for(broker_url, "n")

    labels = processes.ask("good", broker_url, "--task", "text-classification")["labels"]
    assert labels["yes"] > labels["no"]
    (span,) = processes.ask("so good", broker_url, "--task", "token-classification")["spans"]
    assert (span["label"], span["text"], span["start"]) == ("GOOD", "good", 3)
    assert len(processes.ask("good", broker_url, "--task", "feature-extraction")["embedding"]) == 2
    found = processes.ask("so", broker_url, "--task", "question-answering", "--passage", "so good so")
    assert (found["text"], found["spans"][0]["start"]) == ("good", 3)
    assert processes.ask("good", broker_url, "--deadline-ms", "3000")["error"]["code"] == "unsupported"
    refused = processes.ask("so", broker_url, "--task", "question-answering")["error"]
    assert refused["code"] == "invalid"
    assert "a context to find the answer in" in refused["message"]
    plain = processes.run("edge-ask", "good", "--broker", broker_url, "--device", "d", "--task", "text-classification")
    assert json.loads(plain.stdout)["yes"] == pytest.approx(labels["yes"])
