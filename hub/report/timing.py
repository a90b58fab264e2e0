"""How long did each question take, and in which stage?

The delay of an answer is what its asker measured, where the asker has told it, else what the hub saw of it. It is the
sum of six stages: access (between asker and hub, all that the hub cannot see), network, queue, prefill, decode and
overhead (compute that is neither). Does not know of groups or of percentiles.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from hub import events
from hub.report.history import Floats, History, Ints, Mask

STAGES: Final = ("access", *events.STAGES)


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """The delays of a history. `answered`, `told` and `kept` have an entry for each of its questions.

    The other columns are of the questions `at` (indices into the history) only: the answers whose delay is known. An
    answer that was pieced together from a node's report alone has none, unless its asker told it. `kept` are answers
    within the objective, as far as that can be known.
    """

    history: History
    answered: Mask
    told: Mask
    kept: Mask
    at: Ints
    delay_ms: Floats
    stages_ms: dict[str, Floats]
    first_ms: Floats


def timing_of(history: History, slo_ms: float) -> Timing:
    """The delay of every answer. Network is what is left at the hub, so that the stages sum to the delay."""
    answered = history.outcome.are("answered")
    told = answered & ~np.isnan(history.asker_ms)
    at = np.flatnonzero(answered & (told | ~history.partial))
    names = ("asker_ms", "asker_first_ms", "total_ms", "queue_ms", "prefill_ms", "decode_ms", "overhead_ms")
    asker_ms, asker_first_ms, total_ms, *at_node = (getattr(history, name)[at] for name in names)
    queue_ms, prefill_ms, decode_ms, overhead_ms = at_node
    delay_ms = np.where(np.isnan(asker_ms), total_ms, asker_ms)
    kept = np.zeros(len(history), bool)
    kept[at[delay_ms <= slo_ms]] = True
    return Timing(
        history=history,
        answered=answered,
        told=told,
        kept=kept,
        at=at,
        delay_ms=delay_ms,
        stages_ms={
            "access": delay_ms - total_ms,
            "network": total_ms - (queue_ms + prefill_ms + decode_ms + overhead_ms),
            "queue": queue_ms,
            "prefill": prefill_ms,
            "decode": decode_ms,
            "overhead": overhead_ms,
        },
        # As the asker saw it, else all but the decoding, which begins with the first text.
        first_ms=np.where(np.isnan(asker_first_ms), np.maximum(delay_ms - decode_ms, 0.0), asker_first_ms),
    )
