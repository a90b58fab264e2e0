"""How does an export look on a page: `report.html` of a bundle.

One self-contained page without script: everything of a `Report`, laid out by `page.html.jinja`, which escapes all text.
Does not know how any figure was found out, nor where the marks of the plot go (`plot.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import jinja2
import msgspec

from edge_agent.bench import Cost
from edge_agent.manifest import Accuracy
from exporter.candidate import ANSWER_NEW_TOKENS, ANSWER_PROMPT_TOKENS, Candidate, answer_ms
from exporter.estimate import Estimate
from exporter.plot import Dot, Plot, plot
from exporter.report import Report

TEMPLATE: Final = Path(__file__).with_name("page.html.jinja")
NOTHING: Final = "-"
SIZES: Final = ((860, 460, 13), (360, 400, 11))  # width, height, font of the plot: on a screen, on a phone


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two response times; `percent` is its length, of the longer one's."""

    label: str
    text: str
    how: str
    percent: float
    optimized: bool


class Cell(msgspec.Struct, frozen=True):
    """A figure of the table, and what stands small beneath it."""

    text: str = NOTHING
    note: str = ""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate or stage in the table; `cells` are in the order of the columns."""

    name: str
    verdict: str
    is_anomaly: bool
    cells: tuple[Cell, ...]
    why: str


class Column(msgspec.Struct, frozen=True):
    """A column: its heading, what that means, and how a cell is written. Left out where no row has a figure."""

    heading: str
    meaning: str
    cell: Callable[[Candidate], Cell]


def page(report: Report) -> str:
    """The HTML of `report`, whole."""
    shown = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    shown.filters["figure"], shown.filters["told"] = figure, told
    one_by_one = [*report.stages, *report.candidates]
    columns = [column for column in COLUMNS if any(column.cell(one).text != NOTHING for one in one_by_one)]
    chosen = next((one for one in report.candidates if one.name == report.chosen), None)
    html = shown.from_string(TEMPLATE.read_text("utf-8")).render(
        report=report,
        chosen=chosen,
        bars=bars(report, chosen),
        factor=factor(report, chosen),
        plots=plots(report),
        unplotted=[one.name for one in one_by_one if (dot := _dot(one, report)) is None or not dot.has_place],
        judged=next((one.accuracy for one in one_by_one if one.accuracy), None),
        columns=columns,
        groups=[
            ("32-bit stages, before quantization", [_row(one, "stage", columns) for one in report.stages]),
            ("Candidates", [_row(one, verdict(one, report), columns) for one in report.candidates]),
        ],
        any_estimate=any(one.estimate for one in one_by_one),
        answer=_answer(report),
    )
    # A path that is not UTF-8 reaches the command line as lone surrogates, which no page can hold.
    return html.encode("utf-8", "backslashreplace").decode("utf-8")


def bars(report: Report, chosen: Candidate | None) -> list[Bar]:
    """Original and optimized response time; without a chosen candidate the first alone."""
    told = [
        (
            "Original",
            report.stages[0].name if report.stages else "",
            report.reference_latency_ms,
            _reference_is_estimate(report),
        )
    ]
    if chosen is not None:
        told.append(("Optimized", chosen.name, chosen.latency_ms, chosen.estimate is not None))
    told = [one for one in told if math.isfinite(one[2])]
    longest = max((latency for _, _, latency, _ in told), default=0) or 1
    return [
        Bar(
            label=f"{label}, {name}" if name else label,
            text=f"{figure(latency)} ms",
            how=f"estimated for {report.profile}" if estimated else f"measured on {report.measured_on}",
            percent=round(100 * latency / longest, 2),
            optimized=label == "Optimized",
        )
        for label, name, latency, estimated in told
    ]


def factor(report: Report, chosen: Candidate | None) -> float | None:
    """How many times as fast the chosen one is; None where the two figures cannot be set against each other."""
    if chosen is None or (chosen.estimate is not None) != _reference_is_estimate(report):
        return None
    both = report.reference_latency_ms, chosen.latency_ms
    return both[0] / both[1] if all(0 < value < math.inf for value in both) else None


def plots(report: Report) -> list[Plot]:
    """The drawing for a wide and for a narrow screen; none if nothing has both an accuracy and a latency."""
    judged = next((one.accuracy for one in (*report.stages, *report.candidates) if one.accuracy), None)
    dots = [_dot(one, report) for one in (*report.stages, *report.candidates)]
    placed = [dot for dot in dots if dot is not None and dot.has_place]
    if judged is None or not placed:
        return []
    floor = judged.reference - judged.budget_points
    return [plot(placed, floor, width=width, height=height, font=font) for width, height, font in SIZES]


def verdict(one: Candidate, report: Report) -> str:
    """What became of a candidate, in a word."""
    return "chosen" if one.name == report.chosen else "passes" if one.accepted else "refused"


def figure(value: float) -> str:
    """Three digits, or all those before the point.

    >>> figure(1234.5), figure(99.97), figure(7), figure(0.012345), figure(0), figure(float("inf"))
    ('1,234', '100', '7.00', '0.0123', '0', '-')
    """
    if not math.isfinite(value):
        return NOTHING
    size = abs(value)
    if size >= 1e9 or 0 < size < 1e-4:
        return f"{value:.2e}"
    return f"{value:,.0f}" if size >= 100 or size == 0 else f"{value:#.3g}".rstrip(".")


def signed(points: float) -> str:
    """Points with their sign.

    >>> signed(0.5), signed(-1.234), signed(-0.001)
    ('+0.50', '-1.23', '0.00')
    """
    text = f"{points:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text


def told(value: Any) -> str:
    """A parameter, in words.

    >>> told({"bits": 4, "tied": True, "scale": 0.5, "layers": [1, 2]})
    'bits: 4, tied: yes, scale: 0.5, layers: [1, 2]'
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {told(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return f"[{', '.join(told(one) for one in value)}]"
    return "none" if value is None else str(value)


def _reference_is_estimate(report: Report) -> bool:
    return bool(report.stages) and report.stages[0].estimate is not None


def _answer(report: Report) -> str:
    """What an answer's latency is quoted for; an encoder has no new tokens."""
    if report.task == "text-generation":
        return f"{ANSWER_PROMPT_TOKENS} prompt tokens, {ANSWER_NEW_TOKENS} new"
    return f"a text of {ANSWER_PROMPT_TOKENS} tokens"


def _dot(one: Candidate, report: Report) -> Dot | None:
    """Where it stands on the plot; None if its accuracy or latency was not measured. A stage stands for no bundle."""
    accuracy, is_stage = one.accuracy, any(one is stage for stage in report.stages)
    if accuracy is None or not math.isfinite(one.latency_ms):
        return None
    return Dot(
        name=one.name,
        x=one.latency_ms,
        y=accuracy.value,
        low=accuracy.reference - accuracy.drop_bound_points,
        high=accuracy.reference - accuracy.drop_low_points,
        chosen=not is_stage and one.name == report.chosen,
        hollow=not one.accepted,
        stage=is_stage,
    )


def _row(one: Candidate, verdict: str, columns: Sequence[Column]) -> Row:
    return Row(
        name=one.name,
        verdict=verdict,
        is_anomaly=one.accuracy is not None and one.accuracy.is_anomaly,
        cells=tuple(column.cell(one) for column in columns),
        why=one.reason,
    )


def _of_accuracy(write: Callable[[Accuracy], Cell | str | None]) -> Callable[[Candidate], Cell]:
    """The cell of something that was judged."""

    def cell(one: Candidate) -> Cell:
        text = None if one.accuracy is None else write(one.accuracy)
        return text if isinstance(text, Cell) else Cell(text or NOTHING)

    return cell


def _peak(one: Candidate) -> str:
    """Megabytes of the process that ran it here."""
    return NOTHING if one.cost is None else figure(one.cost.peak_rss_bytes / 1e6)


def _of_cost(read: Callable[[Cost | Estimate], float]) -> Callable[[Candidate], Cell]:
    """The cell of a cost: for another device the estimate, beneath it what was measured here. 0 is no figure."""

    def cell(one: Candidate) -> Cell:
        here, there = (NOTHING if cost is None else figure(read(cost) or math.inf) for cost in (one.cost, one.estimate))
        if there != NOTHING:
            return Cell(f"≈ {there}", "" if here == NOTHING else f"{here} here")
        return Cell(here)

    return cell


def _drop(accuracy: Accuracy) -> Cell:
    interval = f"{signed(accuracy.drop_low_points)} to {signed(accuracy.drop_bound_points)}"
    return Cell(signed(accuracy.drop_points), interval)


def _perplexity(accuracy: Accuracy) -> str | None:
    if accuracy.perplexity is None or not accuracy.reference_perplexity:
        return None
    return f"{accuracy.perplexity / accuracy.reference_perplexity:.3f}"


def _megabytes(count: float | None) -> Cell:
    return Cell() if count is None else Cell(figure(count / 1e6))


COLUMNS: Final = (
    Column("accuracy %", "the metric that the budget is held against", _of_accuracy(lambda a: f"{a.value:.1f}")),
    Column("drop, points", "against the original; beneath it the 95% interval", _of_accuracy(_drop)),
    Column(
        "same answer %", "how often it says what the original says",
        _of_accuracy(lambda a: None if a.agreement is None else f"{a.agreement:.1f}"),
    ),
    Column(
        "KL", "divergence of its next-token distribution from the original's, in nats",
        _of_accuracy(lambda a: None if a.kl is None else f"{a.kl:.4f}"),
    ),
    Column("perplexity ratio", "its perplexity over the original's", _of_accuracy(_perplexity)),
    Column(
        "cosine", "mean cosine between its embeddings and the original's",
        _of_accuracy(lambda a: None if a.cosine is None else f"{a.cosine:.4f}"),
    ),
    Column("MB", "weights on disk, in megabytes", lambda one: _megabytes(one.weights_bytes)),
    Column(
        "zeros %", "share of weights that are zero",
        lambda one: Cell() if one.zeros is None else Cell(f"{100 * one.zeros:.1f}"),
    ),
    Column("decode ms/token", "each new token", _of_cost(lambda cost: cost.decode_ms_per_token)),
    Column("prefill ms/token", "each token of the prompt", _of_cost(lambda cost: cost.prefill_ms_per_token)),
    Column("answer ms", "one answer of the quoted length", _of_cost(answer_ms)),
    Column("peak MB", "peak memory of the process that ran it", lambda one: Cell(_peak(one))),
)  # fmt: skip
