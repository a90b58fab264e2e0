"""What Prometheus is told of questions adds up, and its labels are few."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hub import explore
from hub.decision import Decision, Terms
from hub.metrics import MOST_MODELS, Metrics
from tests.hub.rows import record


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Value by name and label values, as Prometheus reads them."""
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def told_of(**changes: Any) -> dict[tuple[str, ...], float]:
    """What is told when one question has ended so."""
    metrics = Metrics()
    metrics.ended(record(**changes), 0.0)
    return samples(metrics)


def test_questions_are_counted_by_outcome_and_origin() -> None:
    """Once each, when they have ended; those that a node answered for its own device apart."""
    metrics = Metrics()
    for outcome in ("answered", "answered", "no_node"):
        metrics.ended(record(outcome=outcome), 0.0)
    metrics.ended(record(attempts=0, local=True, predicted_ms=None), 0.0)
    told = samples(metrics)
    assert told["edge_hub_questions_total", "hub", "answered"] == 2
    assert told["edge_hub_questions_total", "hub", "no_node"] == 1
    assert told["edge_hub_questions_total", "node", "answered"] == 1


def test_stages_are_seconds_and_sum_up_to_the_whole() -> None:
    """In the buckets of the model that answered."""
    told = told_of(overhead_ms=0.0)
    stages = {
        stage: told["edge_hub_stage_seconds_sum", "smol", stage]
        for stage in ("network", "queue", "prefill", "decode", "overhead")
    }
    assert stages == {"network": 0.01, "queue": 0.005, "prefill": 0.045, "decode": 0.04, "overhead": 0.0}
    assert told["edge_hub_question_seconds_sum", "smol"] == pytest.approx(sum(stages.values()))
    assert told["edge_hub_question_seconds_bucket", "0.05", "smol"] == 0
    assert told["edge_hub_question_seconds_bucket", "0.1", "smol"] == 1


def test_failures_and_local_answers_take_no_time_of_the_fleet() -> None:
    """They are counted, and their delay is another thing."""
    for changes in ({"outcome": "deadline"}, {"attempts": 0, "local": True}, {"partial": True, "predicted_ms": None}):
        told = told_of(**changes)
        assert ("edge_hub_question_seconds_count", "smol") not in told or not told[
            "edge_hub_question_seconds_count", "smol"
        ]
        assert told["edge_hub_prediction_error_ratio_count",] == 0


def test_tokens_are_counted_by_kind() -> None:
    """What was cached was not computed; a node that says more was cached than asked breaks nothing."""
    told = told_of(prompt_tokens=37, cached_tokens=30, completion_tokens=8)
    assert [told["edge_hub_tokens_total", kind, "smol"] for kind in ("prompt", "cached", "answer")] == [7, 30, 8]
    assert told_of(prompt_tokens=1, cached_tokens=2)["edge_hub_tokens_total", "prompt", "smol"] == 0


def test_the_error_of_predictions() -> None:
    """Beside the delay, without its sign; the sums have it. A lost node is no error of the prediction."""
    metrics = Metrics()
    for predicted_ms in (110.0, 80.0):
        metrics.ended(record(predicted_ms=predicted_ms, total_ms=100.0), 0.0)
    metrics.ended(record(predicted_ms=100.0, total_ms=9000.0, attempts=2), 0.0)
    metrics.ended(record(predicted_ms=None), 0.0)
    told = samples(metrics)
    assert told["edge_hub_prediction_error_ratio_sum",] == pytest.approx(0.3)
    assert told["edge_hub_prediction_error_ratio_bucket", "0.15"] == 1
    assert told["edge_hub_predicted_seconds_total",] == pytest.approx(0.19)
    assert told["edge_hub_actual_seconds_total",] == pytest.approx(0.2)


def test_what_else_a_question_took() -> None:
    """Nodes after the first, a second node beside the first, and repeats."""
    told = told_of(attempts=3, duplicates=2, second="hedge", second_won=True)
    assert told["edge_hub_retries_total",] == 2
    assert told["edge_hub_duplicates_total",] == 2
    assert told["edge_hub_second_attempts_total", "hedge", "yes"] == 1


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "first"),
        ({"attempt": 2}, "retry"),
        ({"attempt": 2, "cause": "hedge"}, "hedge"),
        ({"attempt": 2, "cause": "silence"}, "silence"),
        ({"cause": explore.CAUSE}, "explore"),
        ({"cause": "refused: overloaded"}, "refused"),
        ({"chosen": None}, "none"),
        ({"cause": "whatever comes later"}, "first"),
    ],
)
def test_decisions_are_counted_by_what_led_to_them(changes: dict[str, Any], kind: str) -> None:
    """Of a fixed few words."""
    terms = Terms(
        node="a", bundle="b", network_ms=1, wait_ms=0, fixed_ms=1, prefill_ms=1, decode_ms=1, prompt_tokens=1,
        completion_tokens=1,
    )  # fmt: skip
    given: dict[str, Any] = {"attempt": 1, "chosen": terms, **changes}
    metrics = Metrics()
    metrics.decided(Decision(device="d", id="1", candidates=(terms,), rejected=(), **given))
    assert samples(metrics)["edge_hub_decisions_total", kind] == 1


def test_labels_are_bounded() -> None:
    """However many models, devices, nodes and ids come by: the models beyond the first are one."""
    metrics = Metrics()
    for number in range(MOST_MODELS + 10):
        changes = {"model": f"m{number}", "device": f"device-{number}", "node": f"node-{number}", "id": f"id-{number}"}
        metrics.ended(record(**changes), 0.0)
    told = samples(metrics)
    text = metrics.exposition().decode()
    assert told["edge_hub_question_seconds_count", "other"] == 10
    assert len({name[-1] for name in told if name[0] == "edge_hub_question_seconds_count"}) == MOST_MODELS + 1
    assert not any(word in text for word in ("device-", "node-", "id-"))
