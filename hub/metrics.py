"""What a hub tells Prometheus of questions: how they ended, where their time went, how well that was foreseen.

Counts as things happen, in the hub's thread, so each takes microseconds; what is true at a moment is told by
`hub/fleet_gauges.py`. Labels are bounded: no devices, no ids, no nodes, and no more than `MOST_MODELS` models.
Knows nothing of HTTP.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.registry import Collector

from hub import events
from hub.decision import Decision
from hub.explore import CAUSE as EXPLORING

MOST_MODELS: Final = 64  # those that came first; the others are counted together
OTHER: Final = "other"
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_ERRORS: Final = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0)


class Metrics:
    """The counters of one hub: a `Listener` of `hub/service.py`."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._questions = Counter(
            "edge_hub_questions",
            "Questions that ended, by answer or failure code: those of this hub, and those that a node had of its own.",
            ("origin", "outcome"),
            registry=registry,
        )
        self._decisions = Counter(
            "edge_hub_decisions", "Choices of a node, by what led to them.", ("kind",), registry=registry
        )
        self._retries = Counter(
            "edge_hub_retries", "Nodes that were asked after the first one, by questions that ended.", registry=registry
        )
        self._seconds = Counter(
            "edge_hub_second_attempts",
            "Questions of which a second node was asked beside the first, why, and whether that one answered.",
            ("why", "won"),
            registry=registry,
        )
        self._duplicates = Counter("edge_hub_duplicates", "Repeats of questions that ended.", registry=registry)
        self._error = Histogram(
            "edge_hub_prediction_error_ratio",
            "How far the delay was from its prediction, beside the delay; of questions that their first node answered.",
            buckets=_ERRORS,
            registry=registry,
        )
        self._promised = Counter(
            "edge_hub_predicted_seconds", "Sum of the predicted delays of those questions.", registry=registry
        )
        self._taken = Counter("edge_hub_actual_seconds", "Sum of their delays as they were.", registry=registry)
        self._of_models = _OfModels(registry)

    def add(self, collector: Collector) -> None:
        """Tell what this one tells, too."""
        self._registry.register(collector)

    def decided(self, decision: Decision) -> None:
        """A node was chosen, or none was there."""
        self._decisions.labels(_kind(decision)).inc()

    def ended(self, record: events.Record, wall_time_s: float) -> None:
        """A question has its outcome."""
        local, answered = record.local, record.outcome == "answered"
        self._questions.labels("node" if local else "hub", record.outcome).inc()
        if record.duplicates:
            self._duplicates.inc(record.duplicates)
        if record.attempts > 1:
            self._retries.inc(record.attempts - 1)
        if record.second:
            self._seconds.labels(record.second, "yes" if record.second_won else "no").inc()
        if not answered:
            return
        of_model = self._of_models.of(record.model or "")
        of_model.count_tokens(record)
        if local or record.partial:
            return  # nobody here saw how long it took
        of_model.count_time(record)
        if record.attempts == 1 and record.predicted_ms is not None and record.total_ms > 0:
            self._error.observe(abs(record.predicted_ms - record.total_ms) / record.total_ms)
            self._promised.inc(record.predicted_ms / 1000)
            self._taken.inc(record.total_ms / 1000)

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats)."""
        return generate_latest(self._registry)


def _kind(decision: Decision) -> str:
    """One word for what led to a decision, of a fixed few."""
    cause = decision.cause
    if cause.startswith("refused"):
        return "refused"
    if decision.chosen is None:
        return "none"
    if cause == EXPLORING:
        return "explore"
    return cause if cause in ("hedge", "silence") else "first" if decision.attempt == 1 else "retry"


class _OfModels:
    """Time and tokens by model."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._whole = Histogram(
            "edge_hub_question_seconds",
            "From receipt at the hub to the end, of answered questions that this hub routed.",
            ("model",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._stages = Histogram(
            "edge_hub_stage_seconds",
            "Where that time went: network (with attempts that were lost), queue, prefill, decode, overhead of these.",
            ("model", "stage"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._tokens = Counter(
            "edge_hub_tokens",
            "Tokens of answered questions: computed and cached ones of prompts, and those of answers.",
            ("model", "kind"),
            registry=registry,
        )
        self._known: dict[str, _OfModel] = {}

    def of(self, model: str) -> _OfModel:
        """What is counted of this model."""
        found = self._known.get(model)
        if found is None:
            label = model if len(self._known) < MOST_MODELS else OTHER
            found = self._known.get(label)
            if found is None:
                found = self._known[label] = _OfModel(self._whole, self._stages, self._tokens, label)
        return found


class _OfModel:
    """One model's series, looked up once: finding a series takes longer than counting."""

    def __init__(self, whole: Histogram, stages: Histogram, tokens: Counter, model: str) -> None:
        self._whole = whole.labels(model)
        self._network, self._queue, self._prefill, self._decode, self._overhead = (
            stages.labels(model, stage) for stage in events.STAGES
        )
        self._prompt, self._cached, self._answer = (
            tokens.labels(model, kind) for kind in ("prompt", "cached", "answer")
        )

    def count_time(self, record: events.Record) -> None:
        self._whole.observe(record.total_ms / 1000)
        self._network.observe(record.network_ms / 1000)
        self._queue.observe(record.queue_ms / 1000)
        self._prefill.observe(record.prefill_ms / 1000)
        self._decode.observe(record.decode_ms / 1000)
        self._overhead.observe(record.overhead_ms / 1000)

    def count_tokens(self, record: events.Record) -> None:
        self._prompt.inc(max(record.prompt_tokens - record.cached_tokens, 0))  # both are the node's word
        self._cached.inc(record.cached_tokens)
        self._answer.inc(record.completion_tokens)
