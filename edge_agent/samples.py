"""Does a bundle give here what it gave where it was made? Runs the samples of its manifest again.

Another processor or runtime rounds otherwise, so a few tokens or the last digits may differ; much more than that is a
graph that computes something else. Knows nothing of how much is too much.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np

from edge_agent.errors import BundleError, InputError
from edge_agent.runtime.encoder_engine import EncoderEngine
from edge_agent.runtime.engine import Engine
from edge_agent.runtime.sampling import greedy
from hub import wire


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


def compare_tokens(engine: Engine, on_sample: Callable[[int], None] = lambda done: None) -> SamplesScore:
    """The greedy token behind each recorded one, which is then taken for said: one difference is counted once.

    Raises InputError for a bundle without such samples.
    """
    samples = [sample for sample in engine.manifest.samples if sample.token_ids]
    if not samples:
        raise InputError(f"{engine.manifest.bundle_id} has no samples of generated tokens: export the model again")
    tokens = equal = 0
    for sample in samples:
        logits = engine.decoder.prefill(engine.tokenizer.encode_question(wire.Question(question=sample.prompt)))
        for number, token_id in enumerate(sample.token_ids):
            if number:
                logits = engine.decoder.step(sample.token_ids[number - 1])
            tokens, equal = tokens + 1, equal + (greedy(logits) == token_id)
        on_sample(1)
    return SamplesScore(samples=len(samples), tokens=tokens, equal=equal, agreement=100 * equal / tokens)


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
