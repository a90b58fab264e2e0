"""Which node answers this question soonest? The delay of DESIGN.md for every row of the fleet, and the least of it.

    delay = network + upload + max(wait - network / 2 - upload, 0) + fixed
            + prefill * (prompt_tokens - cached_tokens) + decode * expected_tokens

Takes the fleet and the question's features, returns a Decision, changes nothing. Three rules go before the delay:
a node must serve the task and model, the question must fit, and the node must be counted on: ready nodes first, and
only where the caller allows a last resort, suspect ones, then lost ones (the question waits for their return).

A node without a pong yet has no network term of its own; it is priced at the largest one known, but no less than
`UNMEASURED_MS`, so that it is used when needed and not preferred for being unknown. The first ping goes out when a
node appears, so this lasts one round trip. A node without the conversation that a question goes on with is charged
the question's budget, as for a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from functools import cached_property
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from hub.columns import Fleet
from hub.decision import Decision, Rejected, Terms
from hub.eligible import LAST_USABLE, NAMED, Features, fitting, matching, rejected
from hub.failing import FORGET_S
from hub.fleet import Standing, Waiting, waits_ms
from hub.table import Picked
from hub.upload import KIB

UNMEASURED_MS: Final = 100.0
STALE_S: Final = 60.0  # since the last pong: then a node's delay is known to a factor of e, no better
LATE_CHANCE: Final = 0.5  # of the chosen node to be in time: with less the surest one is named, too

Rows = NDArray[np.int64]
Series = NDArray[np.float64]


class Parts(msgspec.Struct, frozen=True, dict=True, eq=False):
    """The terms of the delay, each of all candidates, in milliseconds."""

    network: Series
    upload: Series
    wait: Series
    fixed: Series
    prefill: Series
    decode: Series
    risk: Series  # no part of the delay, see `_risk_ms`
    log_spread: Series  # nor this: the deviation of ln(actual / delay)

    @cached_property
    def visible_wait(self) -> Series:
        """What is left of the wait when the question arrives."""
        left: Series = np.maximum(self.wait - self.network * 0.5 - self.upload, 0.0)
        return left

    @cached_property
    def delay(self) -> Series:
        """Their sum, of the wait what is left of it."""
        return self.network + self.upload + self.visible_wait + self.compute

    @cached_property
    def cost(self) -> Series:
        """The delay, and what the node's failures cost."""
        return self.delay + self.risk

    @cached_property
    def compute(self) -> Series:
        """What the node is busy with this question for."""
        return self.fixed + self.prefill + self.decode


class Candidates(NamedTuple):
    """What a ranking may look at: one question, and every row of the fleet that could take it."""

    question: Features
    fleet: Fleet
    rows: Rows
    picked: Picked
    parts: Parts
    now: float


Ranking = Callable[[Candidates], Series]  # the least is chosen


def least_delay(candidates: Candidates) -> Series:
    """The asker's own delay, failures included, and nothing else."""
    return candidates.parts.cost


def choose(
    question: Features,
    fleet: Fleet,
    now: float,
    exclude: Set[str] = frozenset(),
    *,
    last_resort: bool = False,
    rank: Ranking = least_delay,
) -> Decision:
    """The node and bundle that `rank` puts lowest; ties go to the lesser (node, bundle).

    `exclude` are nodes that failed this question. Without `last_resort` only ready nodes are candidates.
    """
    table = fleet.table
    prompt_tokens = table["prompt_offset"] + table["prompt_slope"] * question.chars
    eligible = matching(question, fleet, table) & fitting(question, table, prompt_tokens)
    for name in exclude:
        eligible[fleet.rows(name)] = False
    standing = table["standing"]
    worst = LAST_USABLE if last_resort else int(Standing.READY)
    usable = (eligible & (standing <= worst)).nonzero()[0]
    if not len(usable):
        return _decision(question, [], 0, *rejected(question, fleet, table["used"] > 0.0, exclude, worst))
    standings = standing[usable]
    tier = int(standings.min())
    rows = usable[standings == tier]
    picked = table.pick(rows)
    prompt_tokens = _computed(question, fleet, prompt_tokens)[rows]
    parts = _parts(question, picked, rows, prompt_tokens, fleet, now)
    candidates = Candidates(question, fleet, rows, picked, parts, now)
    scores = rank(candidates)
    best = _best(scores, rows, fleet)
    named = _terms(candidates, best, prompt_tokens, scores)
    budget_ms = question.budget_ms
    if budget_ms is not None and len(rows) > NAMED and named[0].chance_within(budget_ms) < LATE_CHANCE:
        surest = _surest(budget_ms, parts, picked)
        if surest not in best:
            named[-1:] = _terms(candidates, [surest], prompt_tokens, scores)
    if len(rows) == fleet.size:
        return _decision(question, named, len(rows) - len(named), (), 0)
    others = table["used"] > 0.0
    others[rows] = False
    return _decision(question, named, len(rows) - len(named), *rejected(question, fleet, others, exclude, tier))


def terms_of(rows: Picked, fleet: Fleet, now: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The terms that do not depend on the question: network and wait of each row, in milliseconds."""
    network_ms: NDArray[np.float64] = rows["network_ms"]
    unknown = np.isnan(network_ms)
    if unknown.any():
        known = fleet.table["network_ms"][fleet.table["used"] > 0.0]
        largest = np.nanmax(known) if not np.isnan(known).all() else 0.0
        network_ms = np.where(unknown, max(float(largest), UNMEASURED_MS), network_ms)
    return network_ms, _waits(rows, fleet, now)


def log_spread(rows: Picked, now: float) -> Series:
    """The deviation of ln(actual / delay) of each row, wider the longer its network was not measured."""
    # np.clip would do, at four times the cost where few rows are priced
    stale = np.minimum(np.maximum((now - rows["measured_s"]) / STALE_S, 0.0), 1.0)
    spread: Series = np.sqrt(rows["log_variance"] + stale * stale)
    return spread


def least_wait_ms(fleet: Fleet, now: float) -> float:
    """The shortest queue of all ready nodes, 0 where there is none."""
    ready = np.flatnonzero(fleet.table["standing"] == int(Standing.READY))
    return float(_waits(fleet.table.pick(ready), fleet, now).min()) if len(ready) else 0.0


# --- the formula, over rows -----------------------------------------------------------------------------


def _parts(question: Features, picked: Picked, rows: Rows, prompt_tokens: Series, fleet: Fleet, now: float) -> Parts:
    network_ms, wait_ms = terms_of(picked, fleet, now)
    return Parts(
        network_ms,
        picked["upload_ms_per_kib"] * (question.payload_bytes / KIB),
        wait_ms,
        picked["fixed_ms"],
        picked["prefill_ms"] * prompt_tokens,
        picked["decode_ms"] * question.expected_tokens,
        _risk_ms(question, picked, now) + _forgets_ms(question, rows, fleet),
        log_spread(picked, now),
    )


def _computed(question: Features, fleet: Fleet, prompt_tokens: Series) -> Series:
    """The prompt tokens that each row would have to read: those that its node has cached are none."""
    for name, tokens in question.cached:
        held = fleet.rows(name)
        prompt_tokens[held] = np.maximum(prompt_tokens[held] - tokens, 1.0)
    return prompt_tokens


def _forgets_ms(question: Features, rows: Rows, fleet: Fleet) -> Series | float:
    """A node without the conversation gives an answer that is as good as none: it costs the budget, as a failure."""
    if question.holder is None:
        return 0.0
    lacks = np.ones(len(fleet.table))
    lacks[fleet.rows(question.holder)] = 0.0
    costs: Series = lacks[rows] * (question.budget_ms or 0.0)
    return costs


def _waits(rows: Picked, fleet: Fleet, now: float) -> Series:
    return waits_ms(*(rows[name] for name in Waiting.__struct_fields__), now=now, tail=fleet.tail)


def _best(delay_ms: Series, rows: Rows, fleet: Fleet) -> list[int]:
    """Places of the least delays, least first, ties by (node, bundle)."""
    near = np.arange(len(rows))
    if len(rows) > NAMED:
        bound = np.partition(delay_ms, NAMED - 1)[NAMED - 1]
        near = np.flatnonzero(delay_ms <= bound)
    order = np.lexsort((fleet.rank()[rows[near]], delay_ms[near]))
    best: list[int] = near[order[:NAMED]].tolist()
    return best


def _risk_ms(question: Features, rows: Picked, now: float) -> Series:
    """What the failures of each node cost: a failed question has lost its budget, however fast it failed."""
    if not rows["failure_rate"].any():
        return np.zeros_like(rows["failure_rate"])
    forgotten = np.exp(-np.maximum(now - rows["failed_s"], 0.0) / FORGET_S)
    risk_ms: Series = rows["failure_rate"] * forgotten * (question.budget_ms or 0.0)
    return risk_ms


def _surest(budget_ms: float, parts: Parts, rows: Picked) -> int:
    """The place with the best `Terms.chance_within`: the most deviations between its delay and the budget."""
    off = np.log((budget_ms + 1.0) / (parts.delay + 1.0)) - rows["log_bias"]
    return int(np.argmax(off / np.maximum(parts.log_spread, 1e-9)))


# --- saying it ------------------------------------------------------------------------------------------


def _terms(candidates: Candidates, places: list[int], prompt_tokens: Series, scores: Series) -> list[Terms]:
    """Terms in words of the candidates at these places, in this order."""
    question, fleet, rows, picked, parts, _ = candidates
    columns = np.array(
        (
            *(parts.network, parts.upload, parts.wait, parts.fixed, parts.prefill, parts.decode, parts.risk),
            *(scores - parts.cost, prompt_tokens, picked["log_bias"], parts.log_spread, picked["spread_weight"]),
        )
    )
    labels = map(fleet.label, rows[places].tolist())
    found = []
    for (node, bundle), line in zip(labels, columns[:, places].T.tolist(), strict=True):
        network, upload, wait, fixed, prefill, decode, risk, price, tokens, bias, spread, weight = line
        found.append(
            Terms(
                node=node,
                bundle=bundle,
                network_ms=network,
                upload_ms=upload,
                wait_ms=wait,
                fixed_ms=fixed,
                prefill_ms=prefill,
                decode_ms=decode,
                risk_ms=risk,
                price_ms=price,
                prompt_tokens=tokens,
                completion_tokens=question.expected_tokens,
                log_bias=bias,
                log_spread=spread,
                spread_weight=weight,
            )
        )
    return found


def _decision(
    question: Features, named: list[Terms], more: int, others: tuple[Rejected, ...], more_rejected: int
) -> Decision:
    return Decision(
        device=question.device,
        id=question.id,
        attempt=question.attempt,
        chosen=named[0] if named else None,
        candidates=tuple(named),
        rejected=others,
        more_candidates=more,
        more_rejected=more_rejected,
        budget_ms=question.budget_ms,
    )
