"""The sentences of a report."""

from __future__ import annotations

import msgspec

from hub.report import words
from hub.report.filter import Filter
from hub.report.history import Missing
from tests.hub.report.made import full, made
from tests.hub.report.many import many
from tests.hub.rows import row


def test_counts_are_told() -> None:
    """Questions, failures by code, duplicates, the objective and what is left of its budget."""
    rows = [row(1000.0, duplicates=2), row(1002.0, total_ms=400.0), row(1004.0, outcome="deadline")]
    told = "\n".join(words.counts(made(rows)))
    for said in ("3 questions", "2 answered, 1 failed, 1 deadline; 2 duplicates", "33.3% of all", "spent 6.7 times"):
        assert said in told
    assert "delay known of 2 answers, of 0 by the askers' own clocks" in told


def test_a_budget_that_holds() -> None:
    """What is left is a share of the misses that are allowed."""
    rows = [row(1000.0 + number) for number in range(19)] + [row(1020.0, outcome="deadline")]
    assert words.budget(made(rows).fleet) == "1 missed that, 2 may at a target of 90.0%: 50.0% of the budget is left"


def test_second_attempts_are_told_only_where_there_were_any() -> None:
    """Each kind with what it gained."""
    assert words.again(made([row()]).fleet) == []
    rows = [row(attempts=2, second="hedge", second_won=True), row(attempts=2, second="silence"), row(attempts=2)]
    hedged, silent, retried = (words.again(made([one]).fleet) for one in rows)
    assert hedged == ["1 had a second attempt lest they be late: 1 answered by it, 1 of them within 150 ms"]
    assert silent == ["1 had a second attempt after silence: 0 answered by it, 0 of them within 150 ms"]
    assert retried == ["1 retried after a lost attempt: 1 answered after all, 1 of them within 150 ms"]


def test_pieced_together_answers_are_told() -> None:
    """How many there are, and why."""
    assert "1 were pieced together" in words.timed(made([row(partial=True)]).fleet)


def test_predictions() -> None:
    """How far off, and which way."""
    assert words.predicted(made([row(predicted_ms=None)]).fleet) == "no delay was predicted"
    late = words.predicted(made([row(predicted_ms=50.0)]).fleet)
    assert late == "delay predicted with a mean error of 50.0%; answers came 50.0% later"


def test_missing_records() -> None:
    """Each kind by itself, with the hub's words; nothing where nothing is missing."""
    assert words.missing(Missing()) == []
    answers, lost = words.missing(Missing(answers=2, lost=5, why=("disk full",)))
    assert answers.startswith("2 answers have no record")
    assert lost == "5 records could not be written: disk full"


def test_an_empty_window_says_so() -> None:
    """In one sentence, with its limits."""
    assert words.nothing(made([])) == "No question has ended: nothing to report."
    narrowed = made([], where=Filter(since_s=0.0, until_s=60.0, nodes=("a",)))
    said = "No such question has ended since 1970-01-01 00:00:00 UTC before 1970-01-01 00:01:00 UTC: nothing to report."
    assert words.nothing(narrowed) == said


def test_comparisons_are_told() -> None:
    """How many were made, and how much may be chance."""
    against = full().against
    assert against is not None
    said = words.compared(against)
    assert f"{against.comparisons} comparisons at 99%, of which about {against.by_chance:g} would stand out" in said
    assert "left out" not in said
    few = msgspec.structs.replace(against, left_out=4, too_few=2)
    assert words.compared(few).endswith("chance alone, 4 less busy ones were left out, 2 had too few answers")
    same = [one for one in against.groups if one.verdict == "same"]
    assert same
    assert {words.blamed(one) for one in same} == {words.NOTHING}


def test_a_change_names_its_stage() -> None:
    """The one that explains most of it."""
    slower = made(many(900, seed=2, slow=2.0), before=many(900, seed=1)).against
    assert slower is not None
    (node,) = (one for one in slower.groups if (one.kind, one.name) == ("node", "a"))
    assert words.group_name(node) == "node a"
    assert words.blamed(node).startswith("decode +")
