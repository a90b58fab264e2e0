"""What do prefill and decode cost in this very process? A quick measurement before a node shows itself.

`bench.py` measures with care, in a fresh process; this takes a few greedy answers of a decoder that is open already,
timed as the node later times its own, and their medians: a router compares the two, and whatever looked faster than
it is would be preferred for not having answered yet.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

import msgspec

from edge_agent.runtime.row_decoder import RowDecoder
from edge_agent.runtime.sampling import greedy

PROMPT_TOKENS: Final = (8, 64)  # a short and a usual question
STEPS: Final = 12
PROBE_STEPS: Final = 4
LEAST_EQUAL: Final = 0.9  # int4 kernels change 5 tokens in 100 between two ways to run one graph
ROUNDS: Final = 4
ENOUGH_S: Final = 1.5  # a slow node does not measure all rounds: its steps are long, and it is wanted


class StepCost(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds: of any answer, of each prompt token, of each answer token."""

    fixed_ms: float
    prefill_ms_per_token: float
    decode_ms_per_token: float


class Recorded(msgspec.Struct, frozen=True):
    """A prompt's ids, and those of the answer that was given to it once."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


class Repeated(msgspec.Struct, frozen=True, kw_only=True):
    """How many answers were given again, how many tokens they have, and how many of those came out equal."""

    answers: int
    tokens: int
    equal: int


def repeat_answers(
    decoder: RowDecoder,
    recorded: Sequence[Recorded],
    *,
    enough_s: float = math.inf,
    on_answer: Callable[[int], None] = lambda done: None,
) -> tuple[Repeated, StepCost]:
    """Give recorded answers again, token by token, and measure the decoder's cost as `measure_steps` does on the way.

    The greedy token behind each recorded one is compared, which is then taken for said: one difference is counted once.
    Prompts are prefilled and tokens stepped through as answers are, because quantized kernels give other logits for
    several tokens at once. After `enough_s` seconds no further answer is begun if LEAST_EQUAL of the tokens are equal:
    few tokens may clear a machine, but not condemn it. Two are always given: the first plans memory and is not timed.
    The sequence in the decoder is forgotten.
    """
    lengths = _lengths(decoder)
    prefills: list[list[float]] = [[], []]
    steps: list[float] = []
    answers = tokens = equal = 0
    started = time.perf_counter()
    for number, one in enumerate(recorded):
        if number > 1 and time.perf_counter() - started > enough_s and equal >= LEAST_EQUAL * tokens:
            break
        if number <= ROUNDS:
            for times, length in zip(prefills, lengths, strict=True):
                began = time.perf_counter()
                greedy(decoder.prefill([1] * length))
                times.append(1e3 * (time.perf_counter() - began))
        chosen = [greedy(decoder.prefill(one.prompt))]
        ticks = [time.perf_counter()]
        for token_id in one.answer[:-1]:
            chosen.append(greedy(decoder.step(token_id)))
            ticks.append(time.perf_counter())
        if number:
            steps += [1e3 * (later - sooner) for sooner, later in itertools.pairwise(ticks)]
        answers, tokens = answers + 1, tokens + len(one.answer)
        equal += sum(here == there for here, there in zip(chosen, one.answer, strict=True))
        on_answer(1)
    decoder.reset()
    timed = [times[1:] or times for times in prefills]
    return Repeated(answers=answers, tokens=tokens, equal=equal), _cost(lengths, timed, steps)


def measure_steps(decoder: RowDecoder) -> StepCost:
    """The decoder's cost here; the sequence in it is forgotten. Neither figure is negative."""
    lengths = _lengths(decoder)
    prefills: list[list[float]] = [[], []]
    steps: list[float] = []
    started = time.perf_counter()
    for number in range(ROUNDS + 1):
        if number > 1 and time.perf_counter() - started > ENOUGH_S:
            break
        for times, length in zip(prefills, lengths, strict=True):
            first_ms, step_ms = _answer_ms(decoder, length)
            if number:  # the first run of each shape plans its memory
                times.append(first_ms)
                steps += step_ms
    decoder.reset()
    return _cost(lengths, prefills, steps)


def _lengths(decoder: RowDecoder) -> tuple[int, int]:
    short, usual = (min(tokens, max(decoder.context - STEPS - 1, 1)) for tokens in PROMPT_TOKENS)
    return short, usual


def _cost(lengths: tuple[int, int], prefills: Sequence[Sequence[float]], steps: Sequence[float]) -> StepCost:
    """The line through a short and a usual prompt, and the median step; neither figure is negative."""
    (short, usual), (short_ms, usual_ms) = lengths, map(median, prefills)
    per_token_ms = max(usual_ms - short_ms, 0.0) / max(usual - short, 1)
    return StepCost(
        fixed_ms=max(short_ms - per_token_ms * short, 0.0),
        prefill_ms_per_token=per_token_ms,
        decode_ms_per_token=median(steps) if steps else per_token_ms,
    )


def probe_step(decoder: RowDecoder) -> float:
    """Milliseconds of a step now; the first sequence is forgotten. The first runs only wake the machine up."""
    took_ms: list[float] = []
    decoder.reset()
    for _ in range(PROBE_STEPS):
        started = time.perf_counter()
        greedy(decoder.step(1))
        took_ms.append(1e3 * (time.perf_counter() - started))
    decoder.reset()
    return min(took_ms[1:])


def _answer_ms(decoder: RowDecoder, prompt_tokens: int) -> tuple[float, list[float]]:
    """Milliseconds to the first token of an answer, and of each further one."""
    max_tokens = min(STEPS + 1, decoder.context - prompt_tokens)
    started = time.perf_counter()
    answer = decoder.generate([1] * prompt_tokens, choose=greedy, max_tokens=max_tokens, stop_ids=())
    ticks = [started, *(time.perf_counter() for _ in answer)]
    took_ms = [1e3 * (later - sooner) for sooner, later in itertools.pairwise(ticks)]
    return took_ms[0], took_ms[1:]
