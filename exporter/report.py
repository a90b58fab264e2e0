"""What does an export have to say: the document of `edge-export --json` and of the bundle's report.json.

Frozen values, and the table that a person reads. Does not know how any of it was found out.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edge_agent.bench import Cost
from edge_agent.manifest import Accuracy, Engine, Pass

ANSWER_PROMPT_TOKENS = 37  # the question that an answer's latency is quoted for
ANSWER_NEW_TOKENS = 96


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One precision that was tried. What was not measured is None, and `reason` says why."""

    name: str
    accepted: bool
    reason: str
    weights_bytes: int | None = None
    accuracy: Accuracy | None = None
    cost: Cost | None = None

    @property
    def latency_ms(self) -> float:
        """Milliseconds of one answer of the quoted length."""
        return float("inf") if self.cost is None else answer_ms(self.cost)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one export; `bundle_id` and `path` are None if nothing was accepted."""

    bundle_id: str | None
    path: str | None
    accepted: bool
    profile: str
    task: str
    precision: str | None
    passes: tuple[Pass, ...]
    candidates: tuple[Candidate, ...]
    reference_latency_ms: float | None
    measured_on: str
    engines: tuple[Engine, ...]
    seconds: float

    def document(self) -> dict[str, Any]:
        """The fields of DESIGN.md's contract for `edge-export --json`."""
        return {
            "bundle_id": self.bundle_id,
            "path": self.path,
            "accepted": self.accepted,
            "profile": self.profile,
            "task": self.task,
            "precision": self.precision,
            "passes": [msgspec.to_builtins(step) for step in self.passes],
            "candidates": [_candidate(candidate) for candidate in self.candidates],
            "reference": {"latency_ms": _rounded(self.reference_latency_ms)},
            "measured_on": self.measured_on,
            "engines": [msgspec.to_builtins(engine) for engine in self.engines],
            "seconds": round(self.seconds, 1),
        }

    def table(self) -> list[tuple[str, ...]]:
        """Rows of the summary, the heading first."""
        rows: list[tuple[str, ...]] = [
            ("precision", "verdict", "accuracy", "drop (95%)", "same token", "KL", "MB", "tokens/s", "answer ms", "why")
        ]
        for one in self.candidates:
            accuracy, cost = one.accuracy, one.cost
            verdict = (
                "chosen" if self.accepted and one.name == self.precision else "passes" if one.accepted else "refused"
            )
            rows.append(
                (
                    one.name,
                    verdict,
                    f"{accuracy.value:.1f}%" if accuracy else "-",
                    f"{accuracy.drop_points:+.2f} (<= {accuracy.drop_bound_points:.2f})" if accuracy else "-",
                    f"{accuracy.agreement:.1f}%" if accuracy and accuracy.agreement is not None else "-",
                    f"{accuracy.kl:.4f}" if accuracy and accuracy.kl is not None else "-",
                    f"{one.weights_bytes / 1e6:.0f}" if one.weights_bytes else "-",
                    f"{1e3 / cost.decode_ms_per_token:.0f}" if cost else "-",
                    f"{one.latency_ms:.0f}" if cost else "-",
                    one.reason,
                )
            )
        return rows


def answer_ms(cost: Cost) -> float:
    """Milliseconds from a prompt of 37 tokens to the last of 96 new ones; the first comes with the prefill."""
    return (
        cost.fixed_ms
        + cost.prefill_ms_per_token * ANSWER_PROMPT_TOKENS
        + cost.decode_ms_per_token * (ANSWER_NEW_TOKENS - 1)
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
            "perplexity_ratio": _rounded(_perplexity_ratio(accuracy), 6),
        },
        "weights_bytes": candidate.weights_bytes,
        "measured": None
        if cost is None
        else {
            "fixed_ms": _rounded(cost.fixed_ms),
            "prefill_ms_per_token": _rounded(cost.prefill_ms_per_token, 4),
            "decode_ms_per_token": _rounded(cost.decode_ms_per_token, 4),
            "peak_rss_bytes": cost.peak_rss_bytes,
        },
    }


def _perplexity_ratio(accuracy: Accuracy) -> float | None:
    if accuracy.perplexity is None or accuracy.reference_perplexity is None:
        return None
    return accuracy.perplexity / accuracy.reference_perplexity


def _rounded(value: Any, digits: int = 3) -> Any:
    return round(value, digits) if isinstance(value, float) else value
