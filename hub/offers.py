"""What does the fleet offer now? For each task and model the two nodes that would answer a usual question soonest.

Two, because whoever reads this may be one of them. Takes the fleet, changes nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np

from hub import wire
from hub.columns import Fleet
from hub.delay import EXPECTED_TOKENS
from hub.fleet import Standing
from hub.router import terms_of

MOST_OFFERS: Final = 128
NODES_EACH: Final = 2
USUAL_CHARS: Final = 200  # of a question that nothing is known of


def offers_of(fleet: Fleet, now: float) -> tuple[wire.Offer, ...]:
    """At most `MOST_OFFERS`, soonest first, of ready nodes; in whole milliseconds, so that noise is no news."""
    table = fleet.table
    rows = np.flatnonzero((table["used"] > 0.0) & (table["standing"] == int(Standing.READY)))
    if not len(rows):
        return ()
    chosen = table.pick(rows)
    network_ms, wait_ms = terms_of(chosen, fleet, now)
    prompt_tokens = chosen["prompt_offset"] + chosen["prompt_slope"] * USUAL_CHARS
    compute_ms = chosen["fixed_ms"] + chosen["prefill_ms"] * prompt_tokens + chosen["decode_ms"] * EXPECTED_TOKENS
    delay_ms = network_ms + np.maximum(wait_ms - network_ms / 2, 0.0) + compute_ms
    found: list[wire.Offer] = []
    of_kind: Counter[tuple[str, str]] = Counter()
    seen: set[tuple[str, str, str]] = set()
    for place in np.lexsort((fleet.rank()[rows], delay_ms)):
        node_name, bundle_id = fleet.label(int(rows[place]))
        node = fleet.get(node_name)
        assert node is not None
        bundle = next(one for one in node.bundles if one.bundle == bundle_id)
        kind = (bundle.task, bundle.model)
        if of_kind[kind] == NODES_EACH or (*kind, node_name) in seen:
            continue
        of_kind[kind] += 1
        seen.add((*kind, node_name))
        found.append(
            wire.Offer(
                task=bundle.task,
                model=bundle.model,
                node=node_name,
                bundle=bundle_id,
                context=bundle.context,
                network_ms=round(float(network_ms[place])),
                wait_ms=round(float(wait_ms[place])),
                fixed_ms=_rounded(chosen["fixed_ms"][place]),
                prefill_ms_per_token=_rounded(chosen["prefill_ms"][place]),
                decode_ms_per_token=_rounded(chosen["decode_ms"][place]),
            )
        )
        if len(found) == MOST_OFFERS:
            break
    return tuple(found)


def _rounded(value: float) -> float:
    """Two significant digits.

    >>> _rounded(12.345), _rounded(0.0), _rounded(0.0321)
    (12.0, 0.0, 0.032)
    """
    return float(f"{float(value):.2g}")
