"""What Prometheus is told adds up, and leaves out what nobody knows."""

from __future__ import annotations

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from edge_agent.metrics import Metrics
from hub import wire


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Value by name and label values, as Prometheus reads them."""
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_questions_tokens_and_time_are_counted() -> None:
    """By bundle, origin and outcome; cached tokens apart from computed ones; seconds by stage."""
    metrics = Metrics(lambda: wire.NodeState(epoch=1, status="ready"), lambda: (0, 0))
    answer = wire.Answer(
        id="1", node="n", bundle="b", finish="stop", attempt=1, text="x",
        tokens=wire.Tokens(prompt=10, cached=4, completion=3),
        timing_ms=wire.Timing(queue=20.0, prefill=300.0, decode=2000.0),
    )  # fmt: skip
    metrics.answered(answer, "here")
    metrics.answered(answer, "fleet")
    metrics.failed("b", "fleet", "deadline")
    told = samples(metrics)
    assert told["edge_questions_total", "b", "here", "answered"] == 1
    assert told["edge_questions_total", "b", "fleet", "deadline"] == 1
    assert [told["edge_tokens_total", "b", kind] for kind in ("prompt", "cached", "answer")] == [12, 8, 6]
    assert told["edge_stage_seconds_sum", "b", "prefill"] == 0.6
    assert told["edge_stage_seconds_count", "b", "decode"] == 2
    assert told["edge_stage_seconds_bucket", "b", "0.025", "queue"] == 2


def test_the_runtime_is_told_at_each_scrape() -> None:
    """With the reason why nothing better, and the progress of an engine only while there is one."""

    def of(runtime: str, why: str, progress: float | None) -> tuple[wire.ServedBundle, ...]:
        return (
            wire.ServedBundle(
                bundle="b", model="m", task="t", context=1, fixed_ms=1, prefill_ms_per_token=1, decode_ms_per_token=1,
                runtime=runtime, why=why, progress=progress,
            ),
        )  # fmt: skip

    states = iter([of("cpu", 'tensorrt: "no"\nroom', 0.25), of("tensorrt", "", None)])
    metrics = Metrics(lambda: wire.NodeState(epoch=1, status="ready", bundles=tuple(next(states))), lambda: (0, 0))
    first, second = samples(metrics), samples(metrics)
    assert first["edge_runtime_info", "b", "cpu", 'tensorrt: "no"\nroom'] == 1
    assert first["edge_engine_progress_ratio", "b"] == 0.25
    assert second["edge_runtime_info", "b", "tensorrt", ""] == 1
    assert ("edge_engine_progress_ratio", "b") not in second


def test_the_machine_is_read_at_each_scrape() -> None:
    """What it does not tell has no line."""
    served = wire.ServedBundle(
        bundle="b", model="m", task="text-generation", context=64, fixed_ms=1, prefill_ms_per_token=1,
        decode_ms_per_token=1, runtime="cpu", why="cuda: not installed",
    )  # fmt: skip
    told = wire.NodeState(
        epoch=1, status="ready", bundles=(served,), backlog=wire.Backlog(questions=3, ms=1500.0),
        machine=wire.Machine(cpu=0.25, resident_bytes=1000, first_token_ms=40.0, throttled=False),
    )  # fmt: skip
    later = msgspec.structs.replace(told, machine=wire.Machine(cpu=0.5, temperature_c=61.5, throttled=True))
    states, records = iter([told, later]), iter([(7, 2), (0, 2)])
    metrics = Metrics(lambda: next(states), lambda: next(records))
    first, second = samples(metrics), samples(metrics)
    assert (first["edge_cpu_ratio",], second["edge_cpu_ratio",]) == (0.25, 0.5)
    assert (first["edge_backlog_questions",], first["edge_backlog_seconds",]) == (3, 1.5)
    assert (first["edge_throttled",], second["edge_throttled",]) == (0, 1)
    assert (first["edge_records_waiting",], second["edge_records_waiting",]) == (7, 0)
    assert second["edge_records_lost_total",] == 2
    assert first["edge_runtime_info", "b", "cpu", "cuda: not installed"] == 1
    assert first["edge_first_token_seconds",] == 0.04
    assert ("edge_temperature_celsius",) not in first
    assert second["edge_temperature_celsius",] == 61.5
    assert ("edge_gpu_ratio",) not in second
