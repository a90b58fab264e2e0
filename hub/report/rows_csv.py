"""The report for a spreadsheet: one row for the fleet and for each node, model and device, with every figure.

Where two windows were compared, what has changed stands in each row that was. RFC 4180, in UTF-8 with CRLF. A name that
a spreadsheet would run as a formula is written behind an apostrophe. Nested figures are columns with dots in their
names. Does not know what the figures mean.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from hub.report.against import Compared
from hub.report.figures import Figures
from hub.report.groups import PREDICTED
from hub.report.report import Report

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")  # OWASP, CSV injection


def report_csv(report: Report) -> str:
    """All groups, the fleet first. The columns do not depend on the data, but for the codes of failures."""
    codes = tuple(report.fleet.failures)
    groups: list[tuple[str, str, Figures]] = [("fleet", "", report.fleet)]
    for kind, parts in (("node", report.nodes), ("model", report.models), ("device", report.devices)):
        groups += [(kind, part.name, part) for part in parts]
    rows = [_row(*group, codes) for group in groups]
    if report.against is not None:
        changes: dict[tuple[str, str], Compared] = {(one.kind, one.name): one for one in report.against.groups}
        rows = [row | _changes(changes.get(group[:2])) for row, group in zip(rows, groups, strict=True)]
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


def _changes(one: Compared | None) -> dict[str, Any]:
    """What has changed; nothing for a group that was not compared."""
    columns: dict[str, Any] = {"against.answers": one and one.answers_before, "against.verdict": one and one.verdict}
    for figure in ("mean", "p50", "p95"):
        change = getattr(one, figure, None)
        columns |= {f"against.{figure}.{field}": getattr(change, field, None) for field in ("change", "low", "high")}
    return {**columns, "against.stage": one and one.stage}


def _flat(document: dict[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value
