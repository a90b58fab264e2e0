"""What a run comes to, for a reader: faults by kind with recovery times, outcomes, and each violation with its story.

Takes values and returns tables or lines. Knows nothing of how a run is made.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from rich.table import Table

from .checker import Verdict, Violation
from .history import BROKER, MACHINE, History, Hit

SHOWN = 10  # violations
AROUND_S = 15.0


def recovery_s(history: History, hit: Hit) -> float | None:
    """From the end of a fault to the next answer: to that device, or else to anybody.

    None where no answer came before the next fault of broker or hub, or while one lasted: that tells of the other.
    """
    devices = {asked.device for asked in history.asked}
    answers = [ended for ended in history.ended if ended.code == "answered" and ended.at_s >= hit.to_s]
    if hit.party in devices:
        answers = [ended for ended in answers if ended.device == hit.party]
    if not answers:
        return None
    at_s = min(ended.at_s for ended in answers)
    shared = {BROKER, *history.hubs, hit.party}
    others = [other for other in history.hits if other.party in shared and other is not hit]
    if any(other.from_s < at_s and other.to_s > hit.to_s for other in others):
        return None
    return at_s - hit.to_s


def recoveries(history: History) -> dict[str, list[float]]:
    """Recovery times by kind of fault and kind of party, in order."""
    found: dict[str, list[float]] = {}
    for hit in history.hits:
        times = found.setdefault(f"{hit.kind} {_kind_of(hit.party, history)}", [])
        if (took_s := recovery_s(history, hit)) is not None:
            times.append(took_s)
    return {kind: sorted(times) for kind, times in sorted(found.items())}


def still_s(history: History) -> float:
    """Seconds in which the whole machine stood still, and nothing counted as up."""
    return sum(down.to_s - down.from_s for down in history.down if down.party == MACHINE)


def tables(history: History, verdict: Verdict) -> list[Table]:
    """Faults, then outcomes."""
    faults = Table(title=f"seed {history.seed}: {len(history.hits)} faults; seconds to the next answer")
    for column in ("fault", "times", "median", "longest"):
        faults.add_column(column, justify="left" if column == "fault" else "right")
    kinds = [f"{hit.kind} {_kind_of(hit.party, history)}" for hit in history.hits]
    for kind, times in recoveries(history).items():
        figures = (f"{median(times):.2f}", f"{times[-1]:.2f}") if times else ("-", "-")
        faults.add_row(kind, str(kinds.count(kind)), *figures)
    outcomes = Table(title=f"{verdict.questions} questions, {verdict.owed} of them owed an answer")
    outcomes.add_column("outcome")
    outcomes.add_column("questions", justify="right")
    for code, count in verdict.outcomes.items():
        outcomes.add_row(code, str(count))
    outcomes.add_row("answered, of what the fleet said", f"{100 * verdict.share:.2f}%")
    for note, count in verdict.notes.items():
        outcomes.add_row(note, str(count))
    outcomes.add_row("violations", str(len(verdict.violations)))
    outcomes.add_row("seconds in which the machine stood still", f"{still_s(history):.1f}")
    return [faults, outcomes]


def document(history: History, verdict: Verdict) -> dict[str, Any]:
    """The last line of the output."""
    return {
        "benchmark": "chaos",
        "seed": history.seed,
        "seconds": round(history.end_s - history.start_s, 1),
        "hubs": len(history.hubs),
        "nodes": len(history.nodes),
        "real_nodes": len(history.real),
        "questions": verdict.questions,
        "owed": verdict.owed,
        "faults": len(history.hits),
        "outcomes": verdict.outcomes,
        "share": round(verdict.share, 4),
        "notes": verdict.notes,
        "violations": len(verdict.violations),
        "machine_still_s": round(still_s(history), 1),
        "recovery_s": {
            kind: {"times": len(times), "median": round(median(times), 3), "longest": round(times[-1], 3)}
            for kind, times in recoveries(history).items()
            if times
        },
    }


def story(history: History, violation: Violation) -> list[str]:
    """What happened around a violation, in order, in seconds since the start of the run."""
    key = (violation.device, violation.id)
    start_s = history.start_s
    asked = next((asked for asked in history.asked if (asked.device, asked.id) == key), None)
    asked_s = violation.at_s - AROUND_S if asked is None else asked.at_s
    lines = [(violation.at_s, f"VIOLATION {violation.promise}: {violation.why}")]
    if asked is not None:
        kind = "plain" if asked.plain else "streamed" if asked.streamed else "json"
        lines.append((asked.at_s, f"asked ({kind}), {asked.deadline_s - asked.at_s:.1f} s"))
    lines += [
        (heard.at_s, f"heard {heard.code}{' (replayed)' if heard.replayed else ''}")
        for heard in history.heard
        if (heard.device, heard.id) == key
    ]
    lines += [
        (ended.at_s, f"ended: {ended.code}, own timer {ended.own_timer}, node {ended.node}")
        for ended in history.ended
        if (ended.device, ended.id) == key
    ]
    lines += [
        (replay.at_s, f"replayed {replay.what}") for replay in history.replayed if (replay.device, replay.id) == key
    ]
    lines += [
        (hit.from_s, f"{hit.kind} {hit.party} until {hit.to_s - start_s:.3f}")
        for hit in history.hits
        if hit.to_s > asked_s - AROUND_S and hit.from_s < violation.at_s
    ]
    lines += [
        (down.from_s, f"the machine stood still until {down.to_s - start_s:.3f}")
        for down in history.down
        if down.party == MACHINE and down.to_s > asked_s and down.from_s < violation.at_s
    ]
    head = f"{violation.device} {violation.id}"
    return [head, *(f"  {at_s - start_s:8.3f}  {what}" for at_s, what in sorted(lines))]


def _kind_of(party: str, history: History) -> str:
    if party in history.hubs:
        return "hub"
    if party in history.nodes:
        return "node"
    return "device" if any(asked.device == party for asked in history.asked) else ""
