"""What a node tells Prometheus: questions, tokens, where their time went, what waits, and how the machine is.

Counts as things end; reads the machine when it is asked. Knows nothing of HTTP or of how questions are answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hub import wire

_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The counters of one node. `state` is called at each scrape; `records` gives those that wait, and those lost."""

    def __init__(self, state: Callable[[], wire.NodeState], records: Callable[[], tuple[int, int]]) -> None:
        self._registry = CollectorRegistry()
        self._questions = Counter(
            "edge_questions", "Questions that ended here.", ("bundle", "origin", "outcome"), registry=self._registry
        )
        self._tokens = Counter(
            "edge_tokens",
            "Tokens: computed and cached ones of prompts, and those of answers.",
            ("bundle", "kind"),
            registry=self._registry,
        )
        self._stages = Histogram(
            "edge_stage_seconds",
            "Where the time of answered questions went: queue, prefill (to the first token), decode.",
            ("bundle", "stage"),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._registry.register(_Now(state, records))

    def answered(self, answer: wire.Answer, origin: str) -> None:
        """A question ended with an answer; `origin` is `here` or `fleet`."""
        self._questions.labels(answer.bundle, origin, "answered").inc()
        tokens, timing = answer.tokens, answer.timing_ms
        for kind, count in (
            ("prompt", tokens.prompt - tokens.cached),
            ("cached", tokens.cached),
            ("answer", tokens.completion),
        ):
            self._tokens.labels(answer.bundle, kind).inc(count)
        for stage in ("queue", "prefill", "decode"):
            self._stages.labels(answer.bundle, stage).observe(getattr(timing, stage) / 1000)

    def failed(self, bundle: str, origin: str, outcome: str) -> None:
        """A question ended without an answer: `outcome` is a failure code, or `cancelled`."""
        self._questions.labels(bundle, origin, outcome).inc()

    def sent_away(self, outcome: str) -> None:
        """A question of this device ended that the fleet was asked."""
        self._questions.labels("", "sent", outcome).inc()

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats)."""
        return generate_latest(self._registry)


class _Now(Collector):
    """What is true at this moment. What the machine does not tell is left out."""

    def __init__(self, state: Callable[[], wire.NodeState], records: Callable[[], tuple[int, int]]) -> None:
        self._state = state
        self._records = records

    def collect(self) -> Iterable[Metric]:
        state, (waiting, lost) = self._state(), self._records()
        backlog, reading = state.backlog, state.machine or wire.Machine()
        yield CounterMetricFamily("edge_records_lost", "Records of own questions that could not be kept.", value=lost)
        yield from _runtimes(state.bundles)
        gauges = {
            "edge_records_waiting": ("Records of own questions that no hub has yet.", waiting),
            "edge_tokens_per_second": ("Speed of the latest answers, each by itself.", reading.tokens_per_s),
            "edge_first_token_seconds": ("Queue and prefill of the latest answers.", _seconds(reading.first_token_ms)),
            "edge_prompt_cached_ratio": ("Share of the latest prompts' tokens that were known.", reading.prompt_cached),
            "edge_throttled": ("1 while the machine says that it is slowed down.", reading.throttled),
            "edge_backlog_questions": ("Questions that wait or are being answered.", backlog.questions),
            "edge_backlog_seconds": ("A guess at the time they still need.", backlog.ms / 1000),
            "edge_cpu_ratio": ("Share of all processors in use, 0 to 1.", reading.cpu),
            "edge_memory_available_bytes": ("Memory that can still be had.", reading.memory_available_bytes),
            "edge_resident_bytes": ("Memory of this process.", reading.resident_bytes),
            "edge_temperature_celsius": ("The hottest sensor.", reading.temperature_c),
            "edge_gpu_ratio": ("Share of the GPU in use, 0 to 1.", reading.gpu),
            "edge_power_watts": ("What the GPU or the board draws.", reading.power_w),
        }
        for name, (help_text, value) in gauges.items():
            if value is not None:
                yield GaugeMetricFamily(name, help_text, value=value)


def _runtimes(bundles: Iterable[wire.ServedBundle]) -> tuple[Metric, Metric]:
    """What runs each bundle, and how far the engine of a better runtime has come."""
    runtimes = GaugeMetricFamily(
        "edge_runtime_info", "What runs a bundle, and why nothing better.", labels=("bundle", "runtime", "why")
    )
    progress = GaugeMetricFamily(
        "edge_engine_progress_ratio", "Of an engine that is being built, 0 to 1.", labels=("bundle",)
    )
    for one in bundles:
        runtimes.add_metric((one.bundle, one.runtime, one.why), 1)
        if one.progress is not None:
            progress.add_metric((one.bundle,), one.progress)
    return runtimes, progress


def _seconds(ms: float | None) -> float | None:
    return None if ms is None else ms / 1000
