"""The report for a spreadsheet: one row for the fleet and for each node, model and device, with every figure.

RFC 4180, in UTF-8 with CRLF. A name that a spreadsheet would run as a formula is written behind an apostrophe. Nested
figures are columns with dots in their names. Does not know what the figures mean.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from hub.report.figures import Figures
from hub.report.groups import PREDICTED
from hub.report.report import Report

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")  # OWASP, CSV injection


def report_csv(report: Report) -> str:
    """All groups, the fleet first. The columns do not depend on the data, but for the codes of failures."""
    codes = tuple(report.fleet.failures)
    rows = [_row("fleet", "", report.fleet, codes)]
    for kind, parts in (("node", report.nodes), ("model", report.models), ("device", report.devices)):
        rows += [_row(kind, part.name, part, codes) for part in parts]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def defused(name: str) -> str:
    """A name as no spreadsheet takes for a formula.

    >>> defused("=1+1"), defused("node-1")
    ("'=1+1", 'node-1')
    """
    return f"'{name}" if name.lstrip().startswith(_FORMULA) or name.startswith(_FORMULA) else name


def _row(kind: str, name: str, figures: Figures, codes: tuple[str, ...]) -> dict[str, Any]:
    document = msgspec.to_builtins(figures)
    document.pop("name", None)
    failures, stages = document.pop("failures"), document["prediction"].pop("stages")
    flat = {"kind": kind, "name": defused(name), **dict(_flat(document, ""))}
    for stage in PREDICTED:
        for field in ("bias_ms", "error_ms"):
            flat[f"prediction.{stage}.{field}"] = stages.get(stage, {}).get(field)
    return {**flat, **{defused(f"failures.{code}"): failures.get(code, 0) for code in codes}}


def _flat(document: dict[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value
