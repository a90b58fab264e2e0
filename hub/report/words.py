"""How a figure is written for people, and what a report says in words: the same in the terminal and on the page.

Knows nothing of tables or markup.
"""

from __future__ import annotations

from typing import Final

from hub.report.against import Change, Compared, Comparison
from hub.report.figures import Again, Figures
from hub.report.history import Missing
from hub.report.report import Report

NOTHING: Final = "-"


def number(value: float | None, digits: int | None = None) -> str:
    """A figure, or a dash where there is none; by default with one digit after the point below 1,000.

    >>> number(123.45), number(1234.56), number(None), number(-0.04), number(1.234, 2)
    ('123.5', '1,235', '-', '0.0', '1.23')
    """
    if value is None:
        return NOTHING
    if digits is None:
        digits = 1 if abs(value) < 999.95 else 0
    text = f"{value:,.{digits}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text


def rate(per_s: float | None) -> str:
    """So many a second, with three digits that count.

    >>> rate(0.012345), rate(12.0), rate(1234.5), rate(0.0)
    ('0.0123', '12.0', '1,234', '0')
    """
    if per_s is None:
        return NOTHING
    return f"{per_s:,.0f}" if per_s >= 99.95 or per_s == 0 else f"{per_s:#.3g}"


def percent(share: float | None) -> str:
    """A share as per cent; never rounded up to all of it.

    >>> percent(0.123), percent(0.99996), percent(1.0), percent(None)
    ('12.3%', '99.9%', '100.0%', '-')
    """
    if share is None:
        return NOTHING
    return "99.9%" if 0.9995 <= share < 1 else f"{share * 100:.1f}%"


def size(milliseconds: float) -> str:
    """Milliseconds, short enough for an axis.

    >>> size(0.5), size(120.0), size(4700.0), size(3_600_000.0)
    ('0.5 ms', '120 ms', '4.7 s', '1 h')
    """
    for unit_ms, unit in ((3_600_000, "h"), (60_000, "min"), (1_000, "s")):
        if milliseconds >= unit_ms:
            return f"{milliseconds / unit_ms:.3g} {unit}"
    return f"{milliseconds:.3g} ms"


def span(seconds: float) -> str:
    """How long a window or a slot is.

    >>> span(5.0), span(90.0), span(3600.0), span(86400.0), span(259200.0)
    ('5 s', '90 s', '1 h', '24 h', '3 d')
    """
    for unit_s, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds > unit_s * (unit == "d") and seconds >= unit_s and seconds % unit_s == 0:
            return f"{seconds / unit_s:,.0f} {unit}"
    return f"{seconds:,.6g} s"


def when(moment: str | None) -> str:
    """A time of the report, which is in UTC, for people.

    >>> when("2026-11-26T14:30:05.123+00:00"), when(None)
    ('2026-11-26 14:30:05 UTC', '-')
    """
    return NOTHING if moment is None else f"{moment[:10]} {moment[11:19]} UTC"


def nothing(report: Report) -> str:
    """What is said of a window that no question ended in."""
    window = report.window
    since = f" since {when(window.since)}" if window.since else ""
    until = f" before {when(window.until)}" if window.until and window.since else ""
    narrowed = any((window.nodes, window.devices, window.models, window.outcomes))
    such = "No such question" if narrowed else "No question"
    return f"{such} has ended{since}{until}: nothing to report."


def counts(report: Report) -> list[str]:
    """The fleet in sentences: what was asked, and how it went."""
    fleet, window = report.fleet, report.window
    failures = "".join(f", {count:,} {code}" for code, count in fleet.failures.items())
    objective = f"within {fleet.slo_ms:g} ms"
    lines = [
        f"{fleet.questions:,} questions from {when(window.since)} to {when(window.until)}: "
        f"{fleet.answered:,} answered, {fleet.failed:,} failed{failures}; "
        f"{fleet.duplicates:,} duplicates; {fleet.local:,} were answered by the device's own node",
        f"{rate(fleet.throughput_per_s)} answers/s, {rate(fleet.goodput_per_s)} of them {objective}; "
        f"{percent(fleet.slo_attainment)} of all questions answered {objective}",
        budget(fleet),
        timed(fleet),
        predicted(fleet),
        *again(fleet),
    ]
    return lines + missing(report.missing)


def budget(figures: Figures) -> str:
    """What is left of the misses that the target allows."""
    allowed = figures.budget
    if allowed.left is None:
        return f"{allowed.missed:,} missed that; a target of {percent(allowed.target)} allows none"
    if allowed.left >= 0:
        left = f"{percent(allowed.left)} of the budget is left"
    else:
        left = f"the budget is spent {allowed.missed / allowed.allowed:,.1f} times"
    target = f"{allowed.allowed:,.6g} may at a target of {percent(allowed.target)}"
    return f"{allowed.missed:,} missed that, {target}: {left}"


def timed(figures: Figures) -> str:
    """Whose clock the delays are by."""
    text = f"delay known of {figures.timed:,} answers, of {figures.told:,} by the askers' own clocks"
    if figures.partial:
        text += f"; {figures.partial:,} were pieced together from a node's report: their hub was gone"
    return text


def predicted(figures: Figures) -> str:
    """How far off the predictions were."""
    one = figures.prediction
    if one.mape is None or one.bias is None:
        return "no delay was predicted"
    way = "later" if one.bias < 0 else "sooner"
    return f"delay predicted with a mean error of {percent(one.mape)}; answers came {percent(abs(one.bias))} {way}"


def again(figures: Figures) -> list[str]:
    """What was asked more than once, and what that gained."""
    kinds = (
        (figures.retries, "retried after a lost attempt", "answered after all"),
        (figures.hedges, "had a second attempt lest they be late", "answered by it"),
        (figures.after_silence, "had a second attempt after silence", "answered by it"),
    )
    return [_again(one, what, gained, figures.slo_ms) for one, what, gained in kinds if one.questions]


def _again(one: Again, what: str, gained: str, slo_ms: float) -> str:
    return f"{one.questions:,} {what}: {one.answered:,} {gained}, {one.in_slo:,} of them within {slo_ms:g} ms"


def missing(records: Missing) -> list[str]:
    """What the store does not have."""
    lines = []
    if records.answers:
        lines.append(f"{records.answers:,} answers have no record: they are missing in the nodes' own numbering")
    if records.lost:
        why = f": {'; '.join(records.why)}" if records.why else ""
        lines.append(f"{records.lost:,} records could not be written{why}")
    return lines


def compared(comparison: Comparison) -> str:
    """What was compared with what, and how much of it may be chance."""
    more = f", {comparison.left_out:,} less busy ones were left out" if comparison.left_out else ""
    few = f", {comparison.too_few:,} had too few answers" if comparison.too_few else ""
    return (
        f"against {comparison.questions:,} questions from {when(comparison.since)} to {when(comparison.until)}: "
        f"{comparison.comparisons:,} comparisons at {comparison.confidence:.0%}, of which about "
        f"{comparison.by_chance:g} would stand out by chance alone{more}{few}"
    )


def change(one: Change) -> str:
    """A change with its interval.

    >>> change(Change(before=10.0, after=15.0, change=5.0, low=4.0, high=6.5))
    '+5.0 (+4.0 to +6.5)'
    """
    return f"{signed(one.change)} ({signed(one.low)} to {signed(one.high)})"


def signed(value: float) -> str:
    """A figure with its sign.

    >>> signed(1234.5), signed(-0.5), signed(0.0)
    ('+1,234', '-0.5', '0.0')
    """
    text = number(value)
    return f"+{text}" if value > 0 and text != "0.0" else text


def blamed(one: Compared) -> str:
    """The stage that explains most of a change, where there is one."""
    return NOTHING if one.verdict == "same" else f"{one.stage} {signed(one.stages[one.stage].change)}"


def group_name(one: Compared) -> str:
    """What was compared."""
    return "fleet" if one.kind == "fleet" else f"{one.kind} {one.name}"
