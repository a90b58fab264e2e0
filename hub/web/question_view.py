"""What does the page show of a question? Its choices with their reasons, and its outcome, as plain values.

Pure; the reasons are those of `hub/explain.py`.
"""

from __future__ import annotations

from typing import Any, Final

from hub.decision import Decision, Terms
from hub.events import Record
from hub.explain import decision_line, why_lost
from hub.web.live import Seen

MOST_NAMED: Final = 5  # candidates of a choice, and as many rejected


def question_view(seen: Seen) -> dict[str, Any]:
    """A question as the page shows it."""
    return {
        "number": seen.number,
        "at_s": round(seen.at_s, 3),
        "device": seen.device,
        "id": seen.id,
        "decisions": [decision_view(decision) for decision in seen.decisions],
        "outcome": None if seen.record is None else _outcome(seen.record),
    }


def decision_view(decision: Decision) -> dict[str, Any]:
    """A choice: who was there, what each would have taken, and why the losers lost. `line` is that of the log."""
    chosen, named, rejected = decision.chosen, decision.candidates[:MOST_NAMED], decision.rejected[:MOST_NAMED]
    return {
        "attempt": decision.attempt,
        "cause": decision.cause,
        "chosen": None if chosen is None else chosen.node,
        "predicted_ms": None if chosen is None else round(chosen.delay_ms, 1),
        "candidates": [_candidate(decision, terms) for terms in named],
        "rejected": [{"node": one.node, "reason": one.reason} for one in rejected],
        "more": decision.more_candidates
        + decision.more_rejected
        + len(decision.candidates)
        - len(named)
        + len(decision.rejected)
        - len(rejected),
        "line": decision_line(decision),
    }


def _candidate(decision: Decision, terms: Terms) -> dict[str, Any]:
    return {
        "node": terms.node,
        "delay_ms": round(terms.delay_ms, 1),
        "network_ms": round(terms.network_ms + terms.upload_ms, 1),
        "queue_ms": round(terms.visible_wait_ms, 1),
        "prefill_ms": round(terms.fixed_ms + terms.prefill_ms, 1),
        "decode_ms": round(terms.decode_ms, 1),
        "lost": why_lost(decision, terms),
    }


def _outcome(record: Record) -> dict[str, Any]:
    return {
        "outcome": record.outcome,
        "node": record.node,
        "total_ms": round(record.total_ms, 1),
        "predicted_ms": None if record.predicted_ms is None else round(record.predicted_ms, 1),
        "network_ms": round(record.network_ms, 1),
        "queue_ms": round(record.queue_ms, 1),
        "prefill_ms": round(record.prefill_ms, 1),
        "decode_ms": round(record.decode_ms, 1),
        "overhead_ms": round(record.overhead_ms, 1),
        "tokens": record.completion_tokens,
        "attempts": record.attempts,
        "second": record.second,
    }
