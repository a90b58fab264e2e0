"""Policies side by side as an SVG file: the 99th percentile over the load, and who waits how long at the highest load.

Knows nothing of how the figures came about.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from hub.errors import SimulationError
from hub.simulator.simulate import CURVE_POINTS, LoadResult

_SCRIPT: Final = re.compile(r"<script\b.*?</script>", re.DOTALL)  # pygal's, for tooltips
_HEIGHT: Final = 420
_WIDTH: Final = 900
_COLORS: Final = (
    *("#0072b2", "#56b4e9", "#003f66", "#999999", "#c49a00", "#009e73", "#cc79a7", "#b22222", "#e69f00", "#7a4fb5"),
    "#000000",
)


def write_plot(results: Sequence[LoadResult], path: Path) -> None:
    """Two charts in one SVG file, below each other. Raises SimulationError where it cannot be written."""
    try:
        import pygal  # type: ignore[import-untyped]
    except ImportError as error:
        raise SimulationError(f"pygal cannot be imported ({error}): install edgefleet[hub]") from None
    charts = [_curves(pygal, results[-1])]
    if len(results) > 1:
        charts.insert(0, _over_load(pygal, results))
    try:
        path.write_text(
            _stacked([_SCRIPT.sub("", chart.render(is_unicode=True)) for chart in charts]), encoding="utf-8"
        )
    except OSError as error:
        raise SimulationError(f"{path} cannot be written: {error.strerror or error}") from None


def _over_load(pygal: Any, results: Sequence[LoadResult]) -> Any:
    chart = pygal.Line(**_common(), title="99th percentile (ms)", x_title="load")
    chart.x_labels = [f"{one.load:g}" for one in results]
    for policy in results[0].policies:
        chart.add(policy, [one.policies[policy].p99_ms for one in results], stroke_style=_stroke(policy))
    return chart


def _curves(pygal: Any, result: LoadResult) -> Any:
    chart = pygal.Line(
        **_common(),
        title=f"delay (ms) below which that share of the answers lies, at load {result.load:g}",
        show_minor_x_labels=False,
    )
    chart.x_labels = [f"{place}%" for place in range(CURVE_POINTS + 1)]
    chart.x_labels_major = [f"{place}%" for place in range(0, CURVE_POINTS + 1, 10)]
    for policy, curve in result.curves.items():
        chart.add(policy, [value or None for value in curve], stroke_style=_stroke(policy))
    return chart


def _common() -> dict[str, Any]:
    from pygal.style import Style  # type: ignore[import-untyped]

    style = Style(
        background="white",
        plot_background="white",
        colors=_COLORS,
        font_family="sans-serif",
        title_font_size=15,
        legend_font_size=12,
        label_font_size=11,
        major_label_font_size=11,
    )
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "style": style,
        "logarithmic": True,
        "show_dots": False,
        "truncate_legend": -1,
        "js": [],
        "disable_xml_declaration": True,
    }


def _stroke(policy: str) -> dict[str, Any]:
    """Ours are thick, the oracle's is dashed."""
    if policy == "oracle":
        return {"width": 2, "dasharray": "6, 4"}
    return {"width": 3 if policy.startswith("least-delay") else 1.3}


def _stacked(charts: Sequence[str]) -> str:
    height = _HEIGHT * len(charts)
    placed = "".join(f'<svg y="{_HEIGHT * place}" width="{_WIDTH}" height="{_HEIGHT}">{chart}</svg>'
                     for place, chart in enumerate(charts))  # fmt: skip
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}">{placed}</svg>\n'
