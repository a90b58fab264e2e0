"""A question as the page shows it."""

from __future__ import annotations

import msgspec

from hub.decision import Rejected
from hub.explain import decision_line
from hub.web.live import Seen
from hub.web.question_view import MOST_NAMED, decision_view, question_view
from tests.hub.rows import record
from tests.hub.test_explain import decision, terms


def test_a_choice_names_its_candidates_and_why_the_losers_lost() -> None:
    """The terms add up to the delay, and the line is that of the log."""
    made = decision(terms("near", wait_ms=11.0), terms("far", network_ms=60.0), rejected=(Rejected("old", "draining"),))
    view = decision_view(made)
    assert (view["chosen"], view["predicted_ms"], view["line"]) == ("near", 113.0, decision_line(made))
    near, far = view["candidates"]
    assert (near["lost"], far["lost"]) == ("", "48.0 ms later for network")
    for one in (near, far):
        parts = one["network_ms"] + one["queue_ms"] + one["prefill_ms"] + one["decode_ms"]
        assert parts == one["delay_ms"]
    assert view["rejected"] == [{"node": "old", "reason": "draining"}]


def test_a_choice_in_a_large_fleet_names_some() -> None:
    """And counts the others."""
    rejected = tuple(Rejected(f"x{number}", "draining") for number in range(9))
    made = decision(*(terms(f"n{number}") for number in range(16)), rejected=rejected, more_candidates=100)
    view = decision_view(made)
    assert len(view["candidates"]) == len(view["rejected"]) == MOST_NAMED
    assert view["more"] == 100 + 16 + 9 - 2 * MOST_NAMED


def test_a_question_without_a_node() -> None:
    """It has no prediction; and none that has not ended has an outcome."""
    seen = Seen(number=1, at_s=5.0, device="d", id="q", decisions=(decision(),))
    view = question_view(seen)
    assert view["decisions"][0]["chosen"] is None
    assert view["outcome"] is None
    ended = question_view(msgspec.structs.replace(seen, record=record(outcome="no_node", node=None, predicted_ms=None)))
    assert (ended["outcome"]["outcome"], ended["outcome"]["predicted_ms"]) == ("no_node", None)
