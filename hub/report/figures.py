"""The figures of a report, by name: what the JSON document, the tables and the page are made of.

Milliseconds are of answers whose delay is known. A figure that there is no data for is null, never 0. Knows nothing of
how they are computed (`groups.py`).
"""

from __future__ import annotations

import msgspec


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """The delay of answers, milliseconds. Mean and max are exact, percentiles within the report's error."""

    mean: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None


class Stages(msgspec.Struct, frozen=True, kw_only=True):
    """The milliseconds of each stage; means sum to the mean delay, percentiles to nothing."""

    access: float | None = None
    network: float | None = None
    queue: float | None = None
    prefill: float | None = None
    decode: float | None = None
    overhead: float | None = None


class FirstToken(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds until the first text."""

    mean: float | None = None
    p50: float | None = None
    p95: float | None = None


class Again(msgspec.Struct, frozen=True, kw_only=True):
    """Questions that were sent to a node more than once, for one reason, and what came of it.

    Of a second attempt beside the first, `answered` counts answers that the second one gave, before the first; else all
    answers. `in_slo` of these were within the objective.
    """

    questions: int
    answered: int
    in_slo: int


class StageError(msgspec.Struct, frozen=True, kw_only=True):
    """Predicted less actual milliseconds of a stage: their mean, and the mean of their size."""

    bias_ms: float | None = None
    error_ms: float | None = None


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """How well delays at the hub were predicted, of answers from a first attempt that nobody was asked beside.

    `mape` is the mean size of the error relative to what happened, `bias` the mean of it with its sign: above 0 means
    that things went faster than predicted. `prefill` is predicted together with overhead.
    """

    mape: float | None = None
    bias: float | None = None
    questions: int = 0
    stages: dict[str, StageError] = msgspec.field(default_factory=dict)


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """Misses of the objective (late answers and failures) that the target allows, those that were, and what is left.

    `left` is a share of the allowed ones; below 0 it is overdrawn.
    """

    target: float
    allowed: float
    missed: int
    left: float | None


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is told of some questions.

    `timed` answers are those whose delay is known, `told` of them by the askers' own clocks; `partial` ones were pieced
    together from a node's report, because their hub was gone.
    """

    questions: int
    answered: int
    failed: int
    duplicates: int
    timed: int
    told: int
    partial: int
    local: int
    routed: int
    latency_ms: Latency
    stages_ms: Stages
    stages_p95_ms: Stages
    first_token_ms: FirstToken
    throughput_per_s: float | None
    goodput_per_s: float | None
    slo_ms: float
    slo_attainment: float | None
    budget: Budget
    completion_tokens: int
    tokens_per_s: float | None
    decode_tokens_per_s: float | None
    failures: dict[str, int]
    retries: Again
    hedges: Again
    after_silence: Again
    prediction: Prediction


class Part(Figures, frozen=True, kw_only=True):
    """The questions of one node, model or device; `name` is it, `(none)` for those that never had one."""

    name: str
