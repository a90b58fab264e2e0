"""What do prefill and decode cost in this very process? A quick measurement before a node shows itself.

`bench.py` measures with care, in a fresh process; this takes a few greedy answers of a decoder that is open already,
timed as the node later times its own, and their medians: a router compares the two, and whatever looked faster than
it is would be preferred for not having answered yet.
"""

from __future__ import annotations

import itertools
import time
from statistics import median
from typing import Final

import msgspec

from edge_agent.runtime.decoder import Decoder
from edge_agent.runtime.sampling import greedy

PROMPT_TOKENS: Final = (8, 64)  # a short and a usual question
STEPS: Final = 12
PROBE_STEPS: Final = 4
ROUNDS: Final = 4
ENOUGH_S: Final = 1.5  # a slow node does not measure all rounds: its steps are long, and it is wanted


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
    started = time.perf_counter()
    for number in range(ROUNDS + 1):
        if number > 1 and time.perf_counter() - started > ENOUGH_S:
            break
        for tokens in (short, usual):
            first_ms, step_ms = _answer_ms(decoder, tokens)
            if number:  # the first run of each shape plans its memory
                prefills[tokens].append(first_ms)
                steps += step_ms
    decoder.reset()
    short_ms, usual_ms = median(prefills[short]), median(prefills[usual])
    per_token_ms = max(usual_ms - short_ms, 0.0) / max(usual - short, 1)
    return StepCost(
        fixed_ms=max(short_ms - per_token_ms * short, 0.0),
        prefill_ms_per_token=per_token_ms,
        decode_ms_per_token=median(steps) if steps else per_token_ms,
    )


def probe_step(decoder: Decoder) -> float:
    """Milliseconds of a step now; the first sequence is forgotten. The first runs only wake the machine up."""
    took_ms: list[float] = []
    decoder.reset()
    for _ in range(PROBE_STEPS):
        started = time.perf_counter()
        greedy(decoder.step(1))
        took_ms.append(1e3 * (time.perf_counter() - started))
    decoder.reset()
    return min(took_ms[1:])


def _answer_ms(decoder: Decoder, prompt_tokens: int) -> tuple[float, list[float]]:
    """Milliseconds to the first token of an answer, and of each further one."""
    max_tokens = min(STEPS + 1, decoder.context - prompt_tokens)
    started = time.perf_counter()
    answer = decoder.generate([1] * prompt_tokens, choose=greedy, max_tokens=max_tokens, stop_ids=())
    ticks = [started, *(time.perf_counter() for _ in answer)]
    took_ms = [1e3 * (later - sooner) for sooner, later in itertools.pairwise(ticks)]
    return took_ms[0], took_ms[1:]
