"""Which node should be asked once, although another is sooner, because nobody knows how it is by now?

A node that is never chosen is never learned of: it may have cooled down since. Takes a Decision and gives one back;
whether a question may explore at all is the caller's draw. Knows nothing of chance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from hub.decision import Decision, Terms
from hub.fleet import NEVER, Node

EXPLORING_SHARE: Final = 0.01  # of the questions that could
OLD_S: Final = 60.0  # since a node's last answer
MOST_TIMES_AS_LONG: Final = 3.0  # as the best candidate's delay: what can be learned is worth no more
SURE: Final = 0.95  # of being in time all the same
CAUSE: Final = "to learn how it is by now"


def exploring(decision: Decision, node: Callable[[str], Node], now: float) -> Decision:
    """The decision for the candidate that was heard of longest ago; as it is, where there is none to learn of."""
    chosen, budget_ms = decision.chosen, decision.budget_ms
    if chosen is None or budget_ms is None:
        return decision

    def heard_s(terms: Terms) -> float:
        flow = node(terms.node).flow
        return NEVER if flow is None else flow.at_s

    worth = [
        terms
        for terms in decision.candidates
        if now - heard_s(terms) > OLD_S
        and terms.risk_ms <= chosen.risk_ms
        and terms.delay_ms <= MOST_TIMES_AS_LONG * chosen.delay_ms
        and terms.chance_within(budget_ms) >= SURE
    ]
    if not worth or chosen in worth:
        return decision
    return msgspec.structs.replace(decision, chosen=min(worth, key=heard_s), cause=CAUSE)
