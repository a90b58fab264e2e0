"""Which of two nodes is the better one: for the asker alone, or for all who ask?

Rankings of the router's candidates; the least is chosen. Each question taking its own least delay is not the fleet's
least delay: who takes a node keeps it from those who come after. Pure; knows nothing of how terms are learned.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np

from hub.delay import FLOW_TAU_S
from hub.router import Candidates, Ranking, Series, least_delay
from hub.table import Picked

Objective = Literal["question", "fleet"]
MOST_BUSY: Final = 0.95  # the share of time beyond which a queue is not told apart from one that never ends
DREADED: Final = 1.15  # of a usual delay
DREAD: Final = 14.0
LEAST_USUAL_MS: Final = 1e-6  # it is divided by
MOST_TIMES_USUAL: Final = 1e20  # a node may announce any cost, and its power must stay a number
LOGISTIC: Final = 1.702


def fleet_delay(candidates: Candidates) -> Series:
    """The asker's delay and that of others because of it.

    The price of `x` ms of work put behind `u` ms on a node that gets `rate` questions a ms and is busy `busy` of its
    time is what an M/G/1 queue's mean waits grow by, `rate / (1 - busy) * (u * x + x * x / 2)`: one step of policy
    improvement (Krishnan, 1987; Hyytiä, Penttinen and Aalto, 2012) on the fleet as it is used. Alone it lowers the
    mean and lets some wait long, so what is minimized is the mean of `delay + usual * (delay / (DREADED * usual)) **
    DREAD`, which counts delays far beyond the usual one manifold; the price is multiplied by that function's slope at
    the usual delay.
    """
    parts, usual_ms = candidates.parts, candidates.fleet.usual_ms
    delay = parts.cost + late_ms(candidates)  # a failure is a long delay
    price = price_ms(candidates)
    if usual_ms is None:
        return delay + price
    usual_ms = max(usual_ms, LEAST_USUAL_MS)
    dread = usual_ms * np.minimum(delay / (DREADED * usual_ms), MOST_TIMES_USUAL) ** DREAD
    slope = 1.0 + DREAD * DREADED**-DREAD
    scores: Series = delay + dread + price * slope
    return scores


def late_ms(candidates: Candidates) -> Series | float:
    """What is lost by coming too late: the budget, as by any failure, times how likely that is.

    As `Terms.chance_within`, but for the normal distribution a logistic one, within 1% of it (Bowling et al., 2009).
    """
    budget_ms = candidates.question.budget_ms
    if not budget_ms:
        return 0.0
    spread = np.maximum(candidates.parts.log_spread, 1e-3)
    off = (np.log((candidates.parts.delay + 1.0) / (budget_ms + 1.0)) + candidates.picked["log_bias"]) / spread
    lost: Series = budget_ms / (1.0 + np.exp(np.minimum(-LOGISTIC * off, 500.0)))
    return lost


def price_ms(candidates: Candidates) -> Series:
    """What later questions will wait because of this one, in all, at each candidate."""
    parts = candidates.parts
    rate, busy = _use(candidates.picked, candidates.now)
    work = parts.compute / candidates.picked["parallel"]
    price: Series = rate / (1.0 - busy) * work * (parts.visible_wait + work * 0.5)
    return price


def ranking(objective: Objective) -> Ranking:
    """By name."""
    return least_delay if objective == "question" else fleet_delay


def _use(rows: Picked, now: float) -> tuple[Series, Series]:
    """Answers a millisecond and share of time of each row's node, over the last minute or since its first answer."""
    keep = np.exp(-np.maximum(now - rows["flow_at_s"], 0.0) / FLOW_TAU_S)
    seen_s = np.maximum(now - rows["flow_since_s"], 0.0)
    window_ms = 1000 * FLOW_TAU_S * np.maximum(1.0 - np.exp(-seen_s / FLOW_TAU_S), 1.0 / FLOW_TAU_S)
    rate: Series = keep * rows["flow_answers"] / window_ms
    busy: Series = np.minimum(keep * rows["flow_compute_ms"] / window_ms / rows["parallel"], MOST_BUSY)
    return rate, busy
