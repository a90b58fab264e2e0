"""Does a bundle give here what it gave where it was made? Runs the samples of its manifest again.

Another processor or runtime rounds otherwise, so a few tokens or the last digits may differ; much more than that is a
graph that computes something else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import msgspec
import numpy as np

from edge_agent.errors import BundleError, InputError
from edge_agent.runtime.encoder_engine import EncoderEngine
from edge_agent.runtime.engine import Engine
from edge_agent.runtime.step_cost import LEAST_EQUAL, Recorded, repeat_answers
from hub import wire

LEAST_AGREEMENT: Final = 100 * LEAST_EQUAL  # percent of tokens
LEAST_COSINE: Final = 0.99  # mean over samples: an angle of 8 degrees, far more than a cast to fp16 makes


class SamplesScore(msgspec.Struct, frozen=True, kw_only=True):
    """Decoders have `tokens`, how many of them are `equal`, and that in percent (`agreement`); encoders the mean and
    the least `cosine` of their outputs, of 1. What the other kind has is None.
    """

    samples: int
    tokens: int | None = None
    equal: int | None = None
    agreement: float | None = None
    cosine: float | None = None
    least_cosine: float | None = None


def compare_tokens(
    engine: Engine, on_sample: Callable[[int], None] = lambda done: None, *, enough_s: float = math.inf
) -> SamplesScore:
    """The greedy token behind each recorded one, which is then taken for said: one difference is counted once.

    The engine learns from it what its answers cost here. After `enough_s` seconds no further sample is begun,
    unless too many tokens differ so far. Raises InputError for a bundle without such samples, or without one that fits
    into the context.
    """
    samples = [sample for sample in engine.manifest.samples if sample.token_ids]
    if not samples:
        raise InputError(f"{engine.manifest.bundle_id} has no samples of generated tokens: export the model again")
    recorded = []
    for sample in samples:
        prompt = tuple(engine.tokenizer.encode_question(wire.Question(question=sample.prompt)))
        if len(prompt) + len(sample.token_ids) <= engine.decoder.context:
            recorded.append(Recorded(prompt, sample.token_ids))
    if not recorded:
        raise InputError(f"no sample fits into a context of {engine.decoder.context}: take a larger --context")
    given, cost = repeat_answers(engine.decoder, recorded, enough_s=enough_s, on_answer=on_sample)
    engine.priced(cost)
    return SamplesScore(
        samples=given.answers, tokens=given.tokens, equal=given.equal, agreement=100 * given.equal / given.tokens
    )


def refusal(score: SamplesScore) -> str | None:
    """Why what was given is too far from what was recorded; None if it is not.

    Of tokens, LEAST_AGREEMENT percent must be equal; of outputs, the mean cosine must be LEAST_COSINE.
    """
    if score.agreement is not None and score.agreement < LEAST_AGREEMENT:
        found = f"{score.equal} of {score.tokens} tokens equal, {LEAST_AGREEMENT:g}% are needed"
    elif score.cosine is not None and score.cosine < LEAST_COSINE:
        found = f"a mean cosine of {score.cosine:.3f} over {score.samples} samples, {LEAST_COSINE:g} is needed"
    else:
        return None
    kind = "tokens" if score.agreement is not None else "numbers"
    return f"this machine gives other {kind} than where it was made: {found}"


def compare_outputs(engine: EncoderEngine, on_sample: Callable[[int], None] = lambda done: None) -> SamplesScore:
    """The cosine of each text's output with the recorded one.

    Raises InputError for a bundle without such samples, BundleError where an output has another size.
    """
    samples = [sample for sample in engine.manifest.samples if sample.output]
    if not samples:
        raise InputError(f"{engine.manifest.bundle_id} has no samples of outputs: export the model again")
    cosines = []
    for sample in samples:
        given, recorded = engine.sample(sample.prompt).astype(np.float64), np.asarray(sample.output)
        if given.shape != recorded.shape:
            raise BundleError(
                f"{engine.manifest.bundle_id} gives {given.size} numbers for {sample.prompt[:40]!r} and gave "
                f"{recorded.size} when it was made: its tokenizer or graph works otherwise here"
            )
        lengths = float(np.linalg.norm(given) * np.linalg.norm(recorded))
        cosines.append(min(1.0, float(given @ recorded) / lengths) if lengths else float(not (given - recorded).any()))
        on_sample(1)
    return SamplesScore(samples=len(samples), cosine=float(np.mean(cosines)), least_cosine=min(cosines))
