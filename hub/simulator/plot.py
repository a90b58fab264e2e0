"""Policies side by side as an SVG file: the 99th percentile over the load, and who waits how long at the highest load.

Knows nothing of how the figures came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from hub.errors import SimulationError
from hub.simulator.simulate import CURVE_POINTS, LoadResult

_HEIGHT: Final = 420
_WIDTH: Final = 900


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
        path.write_text(_stacked([chart.render(is_unicode=True) for chart in charts]), encoding="utf-8")
    except OSError as error:
        raise SimulationError(f"{path} cannot be written: {error.strerror or error}") from None


def _over_load(pygal: Any, results: Sequence[LoadResult]) -> Any:
    chart = pygal.XY(
        **_common(), title="p99 over load", x_title="load", y_title="p99 (ms), logarithmic", logarithmic=True
    )
    for policy in results[0].policies:
        points = [(one.load, one.policies[policy].p99_ms) for one in results]
        chart.add(policy, [point for point in points if point[1]])
    return chart


def _curves(pygal: Any, result: LoadResult) -> Any:
    title = f"delays at load {result.load:g}"
    chart = pygal.XY(
        **_common(), title=title, x_title="share of answers", y_title="delay (ms), logarithmic", logarithmic=True
    )
    for policy, curve in result.curves.items():
        chart.add(policy, [(place / CURVE_POINTS, value) for place, value in enumerate(curve) if value > 0])
    return chart


def _common() -> dict[str, Any]:
    return {"width": _WIDTH, "height": _HEIGHT, "show_dots": False, "js": [], "disable_xml_declaration": True}


def _stacked(charts: Sequence[str]) -> str:
    height = _HEIGHT * len(charts)
    placed = "".join(f'<svg y="{_HEIGHT * place}" width="{_WIDTH}" height="{_HEIGHT}">{chart}</svg>'
                     for place, chart in enumerate(charts))  # fmt: skip
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}">{placed}</svg>\n'
