"""What a node tells Prometheus: questions, tokens, where their time went, what waits, and how the machine is.

Counts as things end; reads the machine when it is asked. Knows nothing of HTTP or of how questions are answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edge_agent.telemetry import Reading
from hub import wire

_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The counters of one node. `backlog`, `read` and `served` are called at each scrape."""

    def __init__(
        self,
        backlog: Callable[[], wire.Backlog],
        read: Callable[[], Reading],
        served: Callable[[], Iterable[wire.ServedBundle]] = tuple,
    ) -> None:
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
        self._registry.register(_Now(backlog, read, served))

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

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats)."""
        return generate_latest(self._registry)


class _Now(Collector):
    """What is true at this moment. What the machine does not tell is left out."""

    def __init__(
        self,
        backlog: Callable[[], wire.Backlog],
        read: Callable[[], Reading],
        served: Callable[[], Iterable[wire.ServedBundle]],
    ) -> None:
        self._backlog = backlog
        self._read = read
        self._served = served

    def collect(self) -> Iterable[Metric]:
        yield from self._runtimes()
        backlog, reading = self._backlog(), self._read()
        gauges = {
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

    def _runtimes(self) -> Iterable[Metric]:
        """What runs each bundle, and how far the engine of a better runtime has come."""
        runtimes = GaugeMetricFamily(
            "edge_runtime_info", "What runs a bundle, and why nothing better.", labels=("bundle", "runtime", "why")
        )
        progress = GaugeMetricFamily(
            "edge_engine_progress_ratio", "Of an engine that is being built, 0 to 1.", labels=("bundle",)
        )
        for one in self._served():
            runtimes.add_metric((one.bundle, one.runtime, one.why), 1)
            if one.progress is not None:
                progress.add_metric((one.bundle,), one.progress)
        yield from (runtimes, progress)
