"""What do prefill and decode cost in this very process? A quick measurement before a node shows itself.

`bench.py` measures with care, in a fresh process; this takes a few runs of a decoder that is open already.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Final

import msgspec

from edge_agent.runtime.decoder import Decoder

PROMPT_TOKENS: Final = (8, 64)  # a short and a usual question
STEPS: Final = 12
ROUNDS: Final = 3


class StepCost(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds: of any answer, of each prompt token, of each answer token."""

    fixed_ms: float
    prefill_ms_per_token: float
    decode_ms_per_token: float


def measure_steps(decoder: Decoder) -> StepCost:
    """The decoder's cost here; the sequence in it is forgotten. Neither figure is negative."""
    short, usual = (min(tokens, max(decoder.context - STEPS - 1, 1)) for tokens in PROMPT_TOKENS)
    prefills: dict[int, list[float]] = {short: [], usual: []}
    steps: list[float] = []
    for number in range(ROUNDS + 1):
        for tokens in (short, usual):
            took_ms = _prefill_ms(decoder, tokens)
            if number:  # the first run of each shape plans its memory
                prefills[tokens].append(took_ms)
        for _ in range(min(STEPS, decoder.context - decoder.length)):
            started = time.perf_counter()
            decoder.step(1)
            steps.append(1e3 * (time.perf_counter() - started))
    decoder.reset()
    short_ms, usual_ms = median(prefills[short]), median(prefills[usual])
    per_token_ms = max(usual_ms - short_ms, 0.0) / max(usual - short, 1)
    return StepCost(
        fixed_ms=max(short_ms - per_token_ms * short, 0.0),
        prefill_ms_per_token=per_token_ms,
        decode_ms_per_token=median(steps) if steps else per_token_ms,
    )


def _prefill_ms(decoder: Decoder, tokens: int) -> float:
    started = time.perf_counter()
    decoder.prefill([1] * tokens)
    return 1e3 * (time.perf_counter() - started)
