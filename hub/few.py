"""Which of a few nodes answers this question soonest? `hub/router.py` in plain numbers, node by node.

The router prices a thousand nodes in a few array steps, and each step costs a microsecond or more however few the nodes
are: three hundred for the three nodes of a small site, most of what the hub does for a question. Below FEW rows this
file gives the same decision in a fifth of that. The formulas are those of `hub/router.py`, `hub/objective.py` and
`waits_ms` of `hub/fleet.py`, where they are explained; a property test holds the two to each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Set
from typing import Final, NamedTuple

from hub import wire
from hub.columns import Fleet
from hub.decision import Decision, Rejected, Terms
from hub.delay import Cost, use_of
from hub.eligible import SURE_SHARE, Features, why_not
from hub.failing import rate_at
from hub.fleet import Node, Standing, wait_ms, waiting
from hub.objective import DREAD, DREADED, LEAST_USUAL_MS, LOGISTIC, MOST_BUSY, MOST_TIMES_USUAL, fleet_delay
from hub.router import STALE_S, UNMEASURED_MS, Ranking, least_delay
from hub.upload import KIB

FEW: Final = 16  # rows: not more than a decision names, and where both ways take about as long


class Priced(NamedTuple):
    """One candidate before its price is known. Milliseconds; `cost` is the delay and what the node's failures cost."""

    delay: float
    visible_wait: float
    compute: float
    cost: float
    log_spread: float


class Candidate(NamedTuple):
    """A bundle of a node that could take the question, and the prompt tokens that it would have to read."""

    node: Node
    served: wire.ServedBundle
    cost: Cost
    prompt_tokens: float


Pricing = Callable[[Features, Fleet, Node, Priced, float], float]  # beyond `cost`; the least sum of both is chosen


def no_price(question: Features, fleet: Fleet, node: Node, priced: Priced, now: float) -> float:
    """As `least_delay`."""
    return 0.0


def fleet_price(question: Features, fleet: Fleet, node: Node, priced: Priced, now: float) -> float:
    """As `fleet_delay`, less the cost."""
    late = _late_ms(question.budget_ms, priced, node.spread.mean)
    price = _price_ms(node, priced, now)
    if fleet.usual_ms is None:
        return late + price
    usual_ms = max(fleet.usual_ms, LEAST_USUAL_MS)
    dread = usual_ms * math.pow(min((priced.cost + late) / (DREADED * usual_ms), MOST_TIMES_USUAL), DREAD)
    return late + dread + price * (1.0 + DREAD * math.pow(DREADED, -DREAD))


PRICINGS: Final[dict[Ranking, Pricing]] = {least_delay: no_price, fleet_delay: fleet_price}


def choose_among_few(
    question: Features,
    fleet: Fleet,
    now: float,
    exclude: Set[str] = frozenset(),
    *,
    last_resort: bool = False,
    pricing: Pricing = no_price,
) -> Decision:
    """As `hub.router.choose`, of a fleet with at most FEW rows."""
    worst = Standing.LOST if last_resort else Standing.READY
    usable = [
        candidate
        for node in fleet.values()
        if node.standing <= worst and node.name not in exclude
        for candidate in _candidates(question, fleet, node)
    ]
    tier = min((candidate.node.standing for candidate in usable), default=worst)
    usable = [candidate for candidate in usable if candidate.node.standing == tier]
    unmeasured_ms = _unmeasured_ms(fleet)
    scored = [_scored(question, fleet, candidate, unmeasured_ms, pricing, now) for candidate in usable]
    scored.sort(key=lambda one: (one[0], one[1].node, one[1].bundle))
    candidates = tuple(terms for _, terms in scored)
    taken = {(terms.node, terms.bundle) for terms in candidates}
    return Decision(
        device=question.device,
        id=question.id,
        attempt=question.attempt,
        chosen=candidates[0] if candidates else None,
        candidates=candidates,
        rejected=_rejected(question, fleet, taken, exclude, int(tier)),
        budget_ms=question.budget_ms,
    )


# --- the formula, for one candidate ---------------------------------------------------------------------


def _candidates(question: Features, fleet: Fleet, node: Node) -> list[Candidate]:
    """The bundles of a node that do the task, are the model, and have room for the question."""
    found = []
    for served, cost in zip(node.bundles, node.costs, strict=True):
        if served.task != question.task or question.model not in (None, served.model, served.bundle):
            continue
        prompt_tokens = fleet.prompt_size(served.bundle).at(question.chars)
        needed = SURE_SHARE * prompt_tokens + (question.max_tokens or 0)
        if needed <= served.context and served.context > question.larger_than:
            for name, tokens in question.cached:
                if name == node.name:
                    prompt_tokens = max(prompt_tokens - tokens, 1.0)
            found.append(Candidate(node, served, cost, prompt_tokens))
    return found


def _unmeasured_ms(fleet: Fleet) -> float:
    """The network term of a node without a pong yet."""
    known = [node.network_ms for node in fleet.values() if node.bundles and node.network_ms is not None]
    return max([*known, UNMEASURED_MS])


def _scored(
    question: Features, fleet: Fleet, candidate: Candidate, unmeasured_ms: float, pricing: Pricing, now: float
) -> tuple[float, Terms]:
    node, served, cost, prompt_tokens = candidate
    network_ms = unmeasured_ms if node.network_ms is None else node.network_ms
    queue_ms = wait_ms(waiting(node), now, fleet.tail)
    upload_ms = node.upload.ms_per_kib * (question.payload_bytes / KIB)
    visible_wait = max(queue_ms - network_ms * 0.5 - upload_ms, 0.0)
    fixed_ms = cost.fixed_ms
    prefill_ms = cost.prefill_ms_per_token * prompt_tokens
    decode_ms = cost.decode_ms_per_token * question.expected_tokens
    compute = fixed_ms + prefill_ms + decode_ms
    delay = network_ms + upload_ms + visible_wait + compute
    risk_ms = _risk_ms(question, node, now)
    stale = min(max((now - node.network_at_s) / STALE_S, 0.0), 1.0)
    log_spread = math.sqrt(node.spread.variance + stale * stale)
    priced = Priced(delay, visible_wait, compute, delay + risk_ms, log_spread)
    price_ms = pricing(question, fleet, node, priced, now)
    terms = Terms(
        node=node.name,
        bundle=served.bundle,
        network_ms=network_ms,
        upload_ms=upload_ms,
        wait_ms=queue_ms,
        fixed_ms=fixed_ms,
        prefill_ms=prefill_ms,
        decode_ms=decode_ms,
        risk_ms=risk_ms,
        price_ms=price_ms,
        prompt_tokens=prompt_tokens,
        completion_tokens=question.expected_tokens,
        log_bias=node.spread.mean,
        log_spread=log_spread,
        spread_weight=node.spread.weight,
    )
    return priced.cost + price_ms, terms


def _risk_ms(question: Features, node: Node, now: float) -> float:
    budget_ms = question.budget_ms or 0.0
    risk_ms = rate_at(node.failing, now) * budget_ms if node.failing.rate else 0.0
    return risk_ms + (budget_ms if question.holder not in (None, node.name) else 0.0)


def _late_ms(budget_ms: float | None, priced: Priced, log_bias: float) -> float:
    if not budget_ms:
        return 0.0
    off = (math.log((priced.delay + 1.0) / (budget_ms + 1.0)) + log_bias) / max(priced.log_spread, 1e-3)
    return budget_ms / (1.0 + math.exp(min(-LOGISTIC * off, 500.0)))


def _price_ms(node: Node, priced: Priced, now: float) -> float:
    flow = node.flow
    if flow is None:
        return 0.0
    rate, share = use_of(flow, node.parallel, now)
    busy = min(share, MOST_BUSY)
    work = priced.compute / node.parallel
    return rate / (1.0 - busy) * work * (priced.visible_wait + work * 0.5)


def _rejected(
    question: Features, fleet: Fleet, taken: Set[tuple[str, str]], exclude: Set[str], tier: int
) -> tuple[Rejected, ...]:
    others = sorted(
        (node.name, served.bundle, place)
        for node in fleet.values()
        for place, served in enumerate(node.bundles)
        if (node.name, served.bundle) not in taken
    )
    rejected = []
    for name, bundle, place in others:
        node = fleet.get(name)
        assert node is not None
        rejected.append(Rejected(name, f"{bundle}: {why_not(question, node, node.bundles[place], exclude, tier)}"))
    return tuple(rejected)
