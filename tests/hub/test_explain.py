"""A decision, said."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from hub.decision import Decision, Rejected, Terms
from hub.explain import decision_line, explain_document, explain_table, explain_text, why_lost
from tests.hub.rows import row


def terms(node: str, **changes: Any) -> Terms:
    values: dict[str, Any] = {
        "bundle": "b",
        "network_ms": 2.0,
        "wait_ms": 0.0,
        "fixed_ms": 1.0,
        "prefill_ms": 40.0,
        "decode_ms": 60.0,
        "prompt_tokens": 37.0,
        "completion_tokens": 12.0,
        **changes,
    }
    return Terms(node=node, **values)


def decision(*candidates: Terms, **changes: Any) -> Decision:
    values: dict[str, Any] = {"chosen": candidates[0] if candidates else None, "rejected": (), **changes}
    return Decision(device="kitchen", id="7", attempt=1, candidates=candidates, **values)


def printed(part: object) -> str:
    console = Console(width=160, markup=False, file=io.StringIO())
    console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_loser_lost_for_its_worst_term() -> None:
    """The term that differs most from the winner's is named, and by how much the whole is later."""
    chosen = terms("far", network_ms=60.0)
    made = decision(
        chosen, terms("near", wait_ms=400.0), terms("slow", decode_ms=500.0), terms("twin", network_ms=60.0)
    )
    assert why_lost(made, chosen) == ""
    assert why_lost(made, made.candidates[1]) == "341.0 ms later for wait"
    assert why_lost(made, made.candidates[2]) == "382.0 ms later for decode"
    assert why_lost(made, made.candidates[3]) == "as soon; ties go to the lesser name"


def test_line_of_a_large_fleet_is_one_line() -> None:
    """However many candidates and rejected nodes there are, the line names some and counts the rest."""
    many = tuple(terms(f"n{number:02}", network_ms=float(number)) for number in range(16))
    rejected = tuple(Rejected(f"x{number:02}", "b: draining") for number in range(16))
    line = decision_line(decision(*many, rejected=rejected, more_candidates=984, more_rejected=5))
    assert "\n" not in line
    assert line.startswith("question kitchen/7 attempt 1 -> n00: ")
    assert "995 candidates more" in line
    assert "17 rejected more" in line
    assert len(line) < 1500


def test_line_without_a_node() -> None:
    """Where nobody could be chosen, the line says so."""
    assert decision_line(decision()) == "question kitchen/7 attempt 1 -> no node: no node is known"
    assert decision_line(decision(rejected=(Rejected("a", "b: draining"),))).endswith("-> no node: a: b: draining")


def test_table_shows_every_term() -> None:
    """Each candidate's terms, why it lost, and why others were no candidates."""
    made = decision(terms("far", network_ms=60.0), terms("near", wait_ms=400.0), rejected=(Rejected("old", "b: gone"),))
    text = printed(explain_table(made))
    assert "161.0" in text
    assert "341.0 ms later for wait" in text
    assert "b: gone" in text
    assert "chosen" in text
    counted = decision(terms("a"), more_candidates=7, more_rejected=3)
    assert "7 candidates and 3 rejected" in printed(explain_table(counted))


def test_document_has_a_decision_for_each_attempt() -> None:
    """The JSON is a list with each attempt's candidates, their delay and why they lost."""
    made = decision(terms("far", network_ms=60.0), terms("near", wait_ms=400.0))
    (document,) = explain_document(row(id="7", decisions=(made,)))
    assert (document["id"], document["outcome"], document["chosen"]) == ("7", "answered", "far")
    assert [candidate["delay_ms"] for candidate in document["candidates"]] == [161.0, 502.0]
    assert document["candidates"][1]["lost_because"] == "341.0 ms later for wait"


def test_text_of_a_question_without_a_choice() -> None:
    """A question that was refused before any choice says that."""
    head, rest = explain_text(row(id="7", outcome="overloaded", node=None, predicted_ms=None, decisions=()))
    assert head == "kitchen/7: overloaded after 100.0 ms"
    assert rest == "No node was chosen for it, nor looked for."


def test_near_a_deadline_the_line_says_how_sure_each_is() -> None:
    """A sooner node that lost for its chance is told apart from one that ties; far from a deadline nothing is said."""
    quick, steady = terms("quick", log_spread=1.0, log_bias=1.0), terms("steady", network_ms=40.0, log_spread=0.1)
    near = decision(quick, steady, chosen=steady, budget_ms=180.0, cause="hedge")
    line = decision_line(near)
    assert line.startswith("question kitchen/7 attempt 1 (hedge) -> steady: ")
    assert "in time with 99%" in line
    assert "38.0 ms sooner, but in time with 33%, not 99%" in line
    assert "in time" not in decision_line(decision(quick, steady, budget_ms=60_000.0))
    (document,) = explain_document(row(decisions=(near,), second="hedge"))
    assert (document["cause"], document["budget_ms"], document["second"]) == ("hedge", 180.0, "hedge")
    assert [round(each["chance"], 2) for each in document["candidates"]] == [0.33, 0.99]
    assert "99%" in printed(explain_table(near))


def test_a_node_that_was_not_worth_its_place_lost_for_that() -> None:
    """The ranking puts it first, but what it takes there another question would miss."""
    full, free = terms("full", wait_ms=700.0, log_spread=0.3), terms("free", wait_ms=0.0, network_ms=750.0)
    line = decision_line(decision(full, free, chosen=free, budget_ms=1000.0))
    assert "49.0 ms sooner and before it in the ranking, but in time with 77%: too little for a place there" in line


def test_a_node_that_fails_lost_for_that() -> None:
    """Its risk is named, in the line and in the table."""
    good, bad = terms("good", network_ms=100.0), terms("bad", risk_ms=7500.0)
    made = decision(good, bad, budget_ms=30_000.0)
    assert why_lost(made, bad) == "98.0 ms sooner, but it fails or lacks the conversation: 7500.0 ms for that"
    assert "and 7500.0 for its risk" in decision_line(made)
    assert "7500.0" in printed(explain_table(made))


def test_refused_question_says_what_for() -> None:
    """Nobody was chosen, and each candidate's chance is shown."""
    made = decision(terms("a", log_spread=0.3), chosen=None, budget_ms=20.0, cause="refused: deadline")
    assert decision_line(made).startswith("question kitchen/7 attempt 1 (refused: deadline) -> no node: a 103.0 ms")
    assert "in time with 0%" in decision_line(made)
    assert "refused: deadline" in printed(explain_table(made))


def test_a_sooner_node_may_be_dear_for_others() -> None:
    """Where the fleet's delay is what counts, that is why it lost; it is no tie."""
    quick, spare = terms("quick"), terms("spare", network_ms=12.0)
    said = "10.0 ms sooner, at a higher price for the questions after it: 0.0 ms, not 0.0"
    assert why_lost(decision(spare, quick), quick) == said
