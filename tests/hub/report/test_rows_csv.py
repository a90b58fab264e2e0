"""The report for a spreadsheet."""

from __future__ import annotations

import csv
import io

import pytest

from hub.report.report import Report
from hub.report.rows_csv import defused, report_csv
from tests.hub.report.made import full, made
from tests.hub.report.many import many
from tests.hub.rows import row


def rows_of(report: Report) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(report_csv(report), newline="")))


def test_every_group_is_a_row() -> None:
    """The fleet, then each node, model and device, with the figures of the document."""
    report = full()
    rows = rows_of(report)
    parts = [*report.nodes, *report.models, *report.devices]
    assert len(rows) == 1 + len(parts)
    assert [row["kind"] for row in rows] == ["fleet", *["node"] * len(report.nodes), *["model"] * len(report.models),
                                             *["device"] * len(report.devices)]  # fmt: skip
    for found, part in zip(rows[1:], parts, strict=True):
        assert found["name"] == defused(part.name)
        assert int(found["questions"]) == part.questions
        assert found["latency_ms.p95"] == ("" if part.latency_ms.p95 is None else str(part.latency_ms.p95))
        assert found["stages_p95_ms.decode"] == ("" if part.latency_ms.p95 is None else str(part.stages_p95_ms.decode))
        assert int(found["failures.deadline"]) == part.failures.get("deadline", 0)
        assert int(found["hedges.in_slo"]) == part.hedges.in_slo
        assert None not in found


def test_it_is_what_the_rfc_says() -> None:
    """Lines end with CRLF, all have as many fields, and what holds a quote or a line's end is quoted (RFC 4180)."""
    text = report_csv(made([row(device='a,"b"\r\nc')]))
    assert text.endswith("\r\n")
    records = list(csv.reader(io.StringIO(text, newline="")))
    assert len({len(record) for record in records}) == 1
    assert '"a,""b""\r\nc"' in text
    assert records[-1][1] == 'a,"b"\r\nc'


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\r=1"])
def test_no_name_is_a_formula(name: str) -> None:
    """A spreadsheet shows it as text; other names are left alone."""
    found = [row["name"] for row in rows_of(made([row(device=name)])) if row["kind"] == "device"]
    assert found == [f"'{name}"]
    assert defused("node-1") == "node-1"


def test_what_has_changed() -> None:
    """Each row that was compared has its changes and their intervals, others have none."""
    report = full()
    assert report.against is not None
    compared = {(one.kind, defused(one.name)): one for one in report.against.groups}
    rows = rows_of(report)
    assert {(one["kind"], one["name"]) for one in rows if one["against.verdict"]} == set(compared)
    for found in rows:
        if one := compared.get((found["kind"], found["name"])):
            assert (found["against.stage"], found["against.answers"]) == (one.stage, str(one.answers_before))
            assert (found["against.p95.change"], found["against.p95.low"]) == (str(one.p95.change), str(one.p95.low))
    assert "against.verdict" not in rows_of(made(many(3)))[0]


def test_columns_do_not_depend_on_the_data() -> None:
    """An empty window has the same columns and says so by its zeros."""
    empty, some = rows_of(made([])), rows_of(made([row()]))
    assert list(empty[0]) == list(some[0])
    assert (empty[0]["questions"], empty[0]["latency_ms.mean"], len(empty)) == ("0", "", 1)
