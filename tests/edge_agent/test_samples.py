"""A bundle is held against what it gave when it was made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.errors import BundleError, InputError
from edge_agent.manifest import Sample
from edge_agent.runtime import step_cost
from edge_agent.runtime.encoder_engine import open_encoder
from edge_agent.runtime.engine import open_engine
from edge_agent.runtime.sampling import greedy
from edge_agent.samples import SamplesScore, compare_outputs, compare_tokens, refusal
from hub import wire
from tests.edge_agent.encoder_bundles import encoder_bundle
from tests.edge_agent.runtime.engine_bundles import samples_of

ROWS = {"good": (3.0, 0.0), "bad": (0.0, 3.0)}
QUESTION = "What is the capital of France?"


def test_the_same_tokens_are_all_equal(tiny_bundle: Path, make_bundle: Callable[..., Path]) -> None:
    """Recorded on this machine, each token is chosen again; a wrong one counts once, not with all that follow."""
    engine = open_engine(tiny_bundle, threads=1)
    prompt = engine.tokenizer.encode_question(wire.Question(question=QUESTION))
    said = tuple(engine.decoder.generate(prompt, choose=greedy, max_tokens=6, stop_ids=()))
    other = (said[0] + 1, *said[1:])
    bundle = make_bundle(samples=(Sample(prompt=QUESTION, token_ids=said), Sample(prompt=QUESTION, token_ids=other)))
    score = compare_tokens(open_engine(bundle, threads=1))
    assert (score.samples, score.tokens, score.cosine) == (2, 12, None)
    assert score.equal is not None
    assert 6 <= score.equal < 12
    assert score.agreement == pytest.approx(100 * score.equal / 12)


def test_a_slow_machine_compares_fewer_samples_if_they_are_equal(
    tiny_bundle: Path, make_bundle: Callable[..., Path]
) -> None:
    """Two clear it; where tokens differ, all samples have their say. The cost is learned on the way."""
    samples = samples_of(tiny_bundle)
    engine = open_engine(make_bundle(samples=samples), threads=1)
    before = engine.served.decode_ms_per_token
    score = compare_tokens(engine, enough_s=0.0)
    assert (score.samples, score.tokens, score.equal) == (2, 24, 24)
    assert 0 < engine.served.decode_ms_per_token != before
    assert engine.decoder.length == 0
    assert compare_tokens(engine).samples == 4
    engine.close()


def test_a_difference_early_on_does_not_condemn(
    tiny_bundle: Path, make_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four of the first 24 tokens differ, which is too much, and of all 48 it is not: then all are compared."""
    engine = open_engine(make_bundle(samples=samples_of(tiny_bundle)), threads=1)
    asked = 0

    def wrong_at_first(logits: Any) -> int:
        nonlocal asked
        asked += 1
        return -1 if 2 < asked <= 6 else greedy(logits)  # the first two are of the measurement

    monkeypatch.setattr(step_cost, "greedy", wrong_at_first)
    score = compare_tokens(engine, enough_s=0.0)
    assert (score.samples, score.tokens, score.equal) == (4, 48, 44)
    assert refusal(score) is None
    engine.close()


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (SamplesScore(samples=1, tokens=10, equal=9, agreement=90.0), None),
        (SamplesScore(samples=1, tokens=100, equal=89, agreement=89.0), "89 of 100 tokens equal, 90% are needed"),
        (SamplesScore(samples=2, cosine=0.99, least_cosine=0.9), None),
        (SamplesScore(samples=2, cosine=0.98, least_cosine=0.9), "a mean cosine of 0.980 over 2 samples"),
    ],
)
def test_how_much_is_too_much(score: SamplesScore, reason: str | None) -> None:
    """With the numbers; what is just enough is enough."""
    found = refusal(score)
    assert found is None if reason is None else reason in (found or "")


def test_outputs_are_compared_by_their_direction(tmp_path: Path) -> None:
    """The same output has cosine 1; one at a right angle 0; the mean and the least are told."""
    samples = [Sample(prompt="good", output=(1.0, 0.0)), Sample(prompt="bad", output=(1.0, 0.0))]
    bundle = encoder_bundle(tmp_path, "feature-extraction", ROWS, samples=samples)
    done: list[int] = []
    score = compare_outputs(open_encoder(bundle, threads=1), done.append)
    assert (score.samples, score.cosine, score.least_cosine, score.tokens) == (2, 0.5, 0.0, None)
    assert done == [1, 1]


def test_an_output_of_zeros_equals_only_itself(tmp_path: Path) -> None:
    """It has no direction."""
    samples = [Sample(prompt="london", output=(0.0, 0.0)), Sample(prompt="good", output=(0.0, 0.0))]
    bundle = encoder_bundle(tmp_path, "feature-extraction", ROWS, samples=samples)
    score = compare_outputs(open_encoder(bundle, threads=1))
    assert (score.cosine, score.least_cosine) == (0.5, 0.0)


def test_an_output_of_another_size_is_no_matter_of_rounding(tmp_path: Path) -> None:
    """It is refused with both sizes."""
    samples = [Sample(prompt="good", output=(1.0, 0.0, 0.0))]
    bundle = encoder_bundle(tmp_path, "feature-extraction", ROWS, samples=samples)
    with pytest.raises(BundleError, match="gives 2 numbers for 'good' and gave 3"):
        compare_outputs(open_encoder(bundle, threads=1))


def test_without_samples_there_is_nothing_to_compare(tiny_bundle: Path, tmp_path: Path) -> None:
    """It is said what to do."""
    with pytest.raises(InputError, match="no samples of generated tokens"):
        compare_tokens(open_engine(tiny_bundle, threads=1))
    with pytest.raises(InputError, match="no samples of outputs"):
        compare_outputs(open_encoder(encoder_bundle(tmp_path, "feature-extraction", ROWS), threads=1))
