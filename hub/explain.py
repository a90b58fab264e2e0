"""Why did this node answer? One decision as a log line, and as a table.

Renders values; knows nothing of how a decision is made or where it is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rich.table import Table

from hub.admission import SURE_CHANCE, chance
from hub.decision import Decision, Terms
from hub.events import Row
from hub.router import LATE_CHANCE

_LOSERS_ON_A_LINE: Final = 4
_TIE_MS: Final = 0.05


def decision_line(decision: Decision) -> str:
    """Everything about one choice on one line, the losers cut to the best four.

    >>> from hub.decision import Rejected
    >>> near = Terms(node="near", bundle="b", network_ms=2, wait_ms=400, fixed_ms=1, prefill_ms=40, decode_ms=60,
    ...              prompt_tokens=37, completion_tokens=12)
    >>> far = Terms(node="far", bundle="b", network_ms=60, wait_ms=0, fixed_ms=1, prefill_ms=40, decode_ms=60,
    ...             prompt_tokens=37, completion_tokens=12)
    >>> print(decision_line(Decision(device="kitchen", id="7", attempt=1, chosen=far, candidates=(far, near),
    ...                              rejected=(Rejected("old", "b: draining"),))))
    question kitchen/7 attempt 1 -> far: far 161.0 ms (network 60.0 + wait 0.0 + fixed 1.0 + prefill 40.0 \
+ decode 60.0); near 502.0 ms (network 2.0 + wait 399.0 + fixed 1.0 + prefill 40.0 + decode 60.0), \
341.0 ms later for wait; old: b: draining
    """
    head = f"question {decision.device}/{decision.id} attempt {decision.attempt}"
    parts = []
    for terms in decision.candidates[: _LOSERS_ON_A_LINE + 1]:
        loss = why_lost(decision, terms)
        parts.append(f"{terms.node} {_sum(terms)}{_doubts(decision, terms)}" + (f", {loss}" if loss else ""))
    hidden = max(len(decision.candidates) - len(parts), 0) + decision.more_candidates
    if hidden:
        parts.append(f"{hidden} candidates more")
    parts += [f"{rejected.node}: {rejected.reason}" for rejected in decision.rejected[:_LOSERS_ON_A_LINE]]
    hidden = max(len(decision.rejected) - _LOSERS_ON_A_LINE, 0) + decision.more_rejected
    if hidden:
        parts.append(f"{hidden} rejected more")
    chosen = decision.chosen.node if decision.chosen is not None else "no node"
    if decision.cause:
        head += f" ({decision.cause})"
    return f"{head} -> {chosen}: " + ("; ".join(parts) or "no node is known")


def why_lost(decision: Decision, terms: Terms) -> str:
    """By how much a candidate lost, and for which term most; empty for the chosen one."""
    chosen = decision.chosen
    if chosen is None or terms == chosen:
        return ""
    later_ms = terms.delay_ms - chosen.delay_ms
    if later_ms <= 0 and terms.risk_ms - chosen.risk_ms > -later_ms:
        return f"{-later_ms:.1f} ms sooner, but it fails or lacks the conversation: {terms.risk_ms:.1f} ms for that"
    if later_ms <= 0 and (surer := _surer_by(decision, terms)) is not None:
        return f"{-later_ms:.1f} ms sooner, but in time with {surer[1]:.0%}, not {surer[0]:.0%}"
    if (in_time := _not_worth(decision, terms)) is not None:
        how = f"{abs(later_ms):.1f} ms {'sooner' if later_ms <= 0 else 'later'}"
        return f"{how} and before it in the ranking, but in time with {in_time:.0%}: too little for a place there"
    if later_ms < -_TIE_MS:
        others = f"{terms.price_ms:.1f} ms, not {chosen.price_ms:.1f}"
        return f"{-later_ms:.1f} ms sooner, at a higher price for the questions after it: {others}"
    if later_ms <= 0:
        return "as soon; ties go to the lesser name"
    ours, theirs = _addends(terms), _addends(chosen)
    worst = max(ours, key=lambda name: ours[name] - theirs[name])
    return f"{later_ms:.1f} ms later for {worst}"


def explain_table(decision: Decision) -> Table:
    """Every candidate with its terms, then the rejected ones with their reasons."""
    cause = f" ({decision.cause})" if decision.cause else ""
    table = Table(title=f"{decision.device}/{decision.id}, attempt {decision.attempt}{cause}", title_justify="left")
    for name in ("node", "bundle"):
        table.add_column(name)
    for name in ("delay ms", "network", "upload", "wait", "fixed", "prefill", "decode", "risk", "price", "in time"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for terms in decision.candidates:
        numbers = [terms.delay_ms, *_addends(terms).values(), terms.risk_ms, terms.price_ms]
        in_time = _chance(decision, terms)
        verdict = why_lost(decision, terms) or ("chosen" if decision.chosen is not None else decision.cause)
        said = "-" if in_time is None else f"{in_time:.0%}"
        table.add_row(terms.node, terms.bundle, *(f"{number:.1f}" for number in numbers), said, verdict)
    for rejected in decision.rejected:
        table.add_row(rejected.node, "", *[""] * 10, rejected.reason)
    more = decision.more_candidates + decision.more_rejected
    if more:
        table.add_row(
            "...", "", *[""] * 10, f"{decision.more_candidates} candidates and {decision.more_rejected} rejected"
        )
    return table


def explain_document(row: Row) -> list[dict[str, Any]]:
    """The `--json` document of one question: one object per attempt, each with the question's outcome."""
    shown = ("device", "id", "outcome", "node", "predicted_ms", "total_ms", "second")
    question = {name: getattr(row, name) for name in shown}
    return [{**question, **_decision_document(decision)} for decision in row.decisions]


def explain_text(row: Row) -> Sequence[str | Table]:
    """What `edge-hub explain` prints for one question."""
    answered_by = f" by {row.node}" if row.node else ""
    predicted = f", {row.predicted_ms:.1f} ms predicted" if row.predicted_ms is not None else ""
    head = f"{row.device}/{row.id}: {row.outcome}{answered_by} after {row.total_ms:.1f} ms{predicted}"
    if not row.decisions:
        return [head, "No node was chosen for it, nor looked for."]
    return [head, *(explain_table(decision) for decision in row.decisions)]


def _decision_document(decision: Decision) -> dict[str, Any]:
    def terms_document(terms: Terms) -> dict[str, Any]:
        fields = {name: getattr(terms, name) for name in Terms.__struct_fields__}
        return {
            **fields,
            "delay_ms": terms.delay_ms,
            "chance": _chance(decision, terms),
            "lost_because": why_lost(decision, terms) or None,
        }

    return {
        "attempt": decision.attempt,
        "cause": decision.cause or None,
        "budget_ms": decision.budget_ms,
        "chosen": decision.chosen.node if decision.chosen is not None else None,
        "candidates": [terms_document(terms) for terms in decision.candidates],
        "rejected": [{"node": rejected.node, "reason": rejected.reason} for rejected in decision.rejected],
        "more_candidates": decision.more_candidates,
        "more_rejected": decision.more_rejected,
    }


def _addends(terms: Terms) -> dict[str, float]:
    """What the delay is the sum of; the wait is what is left of it after travelling."""
    return {
        "network": terms.network_ms,
        "upload": terms.upload_ms,
        "wait": terms.visible_wait_ms,
        "fixed": terms.fixed_ms,
        "prefill": terms.prefill_ms,
        "decode": terms.decode_ms,
    }


def _chance(decision: Decision, terms: Terms) -> float | None:
    """Of an answer within the budget; None where that did not matter."""
    return None if decision.budget_ms is None else chance(terms, decision.budget_ms)


def _surer_by(decision: Decision, terms: Terms) -> tuple[float, float] | None:
    """The chances of the chosen node and of this one, where they decided."""
    if decision.chosen is None or decision.budget_ms is None:
        return None
    ours, theirs = chance(decision.chosen, decision.budget_ms), chance(terms, decision.budget_ms)
    return (ours, theirs) if theirs < LATE_CHANCE and ours >= SURE_CHANCE else None


def _not_worth(decision: Decision, terms: Terms) -> float | None:
    """The chance of a candidate that the ranking puts before the chosen one, where that was passed over for it."""
    chosen, in_time = decision.chosen, _chance(decision, terms)
    if chosen is None or in_time is None or decision.cause or in_time >= SURE_CHANCE:
        return None
    ours, theirs = (one.delay_ms + one.risk_ms + one.price_ms for one in (chosen, terms))
    return in_time if theirs < ours - _TIE_MS else None


def _doubts(decision: Decision, terms: Terms) -> str:
    """What of a candidate is not as it should be: that it fails, that the deadline is near."""
    in_time = _chance(decision, terms)
    risk = f" and {terms.risk_ms:.1f} for its risk" if terms.risk_ms >= 0.05 else ""
    return risk + (f", in time with {in_time:.0%}" if in_time is not None and in_time < 0.995 else "")


def _sum(terms: Terms) -> str:
    upload = f" + upload {terms.upload_ms:.1f}" if terms.upload_ms >= 0.05 else ""
    before = f"{terms.delay_ms:.1f} ms (network {terms.network_ms:.1f}{upload} + wait {terms.visible_wait_ms:.1f}"
    return f"{before} + fixed {terms.fixed_ms:.1f} + prefill {terms.prefill_ms:.1f} + decode {terms.decode_ms:.1f})"
