"""What does an export have to say: the document of `edge-export --json` and of the bundle's report.json.

Frozen values, and the table that a person reads. Does not know how any of it was found out.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from edge_agent.bench import Cost
from edge_agent.manifest import Accuracy, Engine, Pass
from exporter.candidate import Candidate
from exporter.estimate import Estimate


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one export; `bundle_id`, `path` and `chosen` are None if nothing was accepted.

    `stages` are the fp32 graphs: the untouched one, then one after each pass over the model. `command` is what made it.
    """

    profile: str
    task: str
    passes: tuple[Pass, ...]
    stages: tuple[Candidate, ...]
    candidates: tuple[Candidate, ...]
    reference_latency_ms: float  # infinite where nothing was measured
    measured_on: str
    seconds: float
    command: str = ""
    bundle_id: str | None = None
    path: str | None = None
    accepted: bool = False
    chosen: str | None = None
    precision: str | None = None
    engines: tuple[Engine, ...] = ()
    engines_refused: tuple[str, ...] = ()  # precisions that the engine might have had, and why not

    def document(self) -> dict[str, Any]:
        """The fields of DESIGN.md's contract for `edge-export --json`."""
        return {
            "bundle_id": self.bundle_id,
            "path": self.path,
            "accepted": self.accepted,
            "profile": self.profile,
            "task": self.task,
            "precision": self.precision,
            "chosen": self.chosen,
            "passes": [msgspec.to_builtins(step) for step in self.passes],
            "stages": [_candidate(stage) for stage in self.stages],
            "candidates": [_candidate(candidate) for candidate in self.candidates],
            "reference": {
                "latency_ms": _rounded(self.reference_latency_ms),
                "estimated": any(stage.estimate is not None for stage in self.stages[:1]),
            },
            "measured_on": self.measured_on,
            "command": self.command,
            "engines": [msgspec.to_builtins(engine) for engine in self.engines],
            "engines_refused": list(self.engines_refused),
            "seconds": round(self.seconds, 1),
        }

    def table(self) -> list[tuple[str, ...]]:
        """Rows of the summary, the heading first: the fp32 stages where a pass changed the model, then candidates."""
        stages = self.stages if len(self.stages) > 1 else ()
        return [
            (
                "candidate",
                "verdict",
                "accuracy",
                "drop (95%)",
                "same answer",
                "KL",
                "MB",
                "tokens/s",
                "answer ms",
                "why",
            ),
            *(_row(stage, "stage") for stage in stages),
            *(_row(one, self._verdict(one)) for one in self.candidates),
        ]

    def _verdict(self, one: Candidate) -> str:
        if not self.measured_on:  # a dry run
            return "not tried"
        return "chosen" if one.name == self.chosen else "passes" if one.accepted else "refused"


def _row(one: Candidate, verdict: str) -> tuple[str, ...]:
    accuracy, cost = one.accuracy, one.estimate or one.cost
    about = "~" if one.estimate else ""
    return (
        one.name,
        verdict,
        f"{accuracy.value:.1f}%" if accuracy else "-",
        f"{accuracy.drop_points:+.2f} (<= {accuracy.drop_bound_points:.2f})" if accuracy else "-",
        f"{accuracy.agreement:.1f}%" if accuracy and accuracy.agreement is not None else "-",
        f"{accuracy.kl:.4f}" if accuracy and accuracy.kl is not None else "-",
        f"{one.weights_bytes / 1e6:.0f}" if one.weights_bytes else "-",
        f"{about}{1e3 / cost.decode_ms_per_token:.0f}" if cost and cost.decode_ms_per_token else "-",
        f"{about}{one.latency_ms:.0f}" if cost else "-",
        one.reason,
    )


def _candidate(candidate: Candidate) -> dict[str, Any]:
    accuracy, cost = candidate.accuracy, candidate.cost
    return {
        "name": candidate.name,
        "accepted": candidate.accepted,
        "reason": candidate.reason,
        "accuracy": None
        if accuracy is None
        else {
            **{key: _rounded(value, 6) for key, value in msgspec.to_builtins(accuracy).items()},
            "is_anomaly": accuracy.is_anomaly,
            "perplexity_ratio": _rounded(_perplexity_ratio(accuracy), 6),
        },
        "weights_bytes": candidate.weights_bytes,
        "zeros": _rounded(candidate.zeros, 4),
        "latency_ms": None if cost is None else _rounded(candidate.latency_ms),
        "measured": _cost(cost),
        "estimated": _cost(candidate.estimate),
    }


def _cost(cost: Cost | Estimate | None) -> dict[str, Any] | None:
    if cost is None:
        return None
    told = {
        "fixed_ms": _rounded(cost.fixed_ms),
        "prefill_ms_per_token": _rounded(cost.prefill_ms_per_token, 4),
        "decode_ms_per_token": _rounded(cost.decode_ms_per_token, 4),
    }
    return {**told, "peak_rss_bytes": cost.peak_rss_bytes} if isinstance(cost, Cost) else {**told, "where": cost.where}


def _perplexity_ratio(accuracy: Accuracy) -> float | None:
    if accuracy.perplexity is None or accuracy.reference_perplexity is None:
        return None
    return accuracy.perplexity / accuracy.reference_perplexity


def _rounded(value: Any, digits: int = 3) -> Any:
    """JSON knows no NaN and no infinity: they are null."""
    if isinstance(value, float):
        return round(value, digits) if math.isfinite(value) else None
    return value
