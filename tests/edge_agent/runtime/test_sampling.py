"""Choosing tokens: greedy, and draws that equal the textbook's nucleus."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_agent.errors import RequestError
from edge_agent.runtime.sampling import chooser, greedy, nucleus, sample

rows = st.integers(0, 2**32 - 1).flatmap(
    lambda seed: st.tuples(st.just(seed), st.integers(1, 2000), st.sampled_from([0.0, 0.5, 3.0, 30.0]))
)


def logits_of(seed: int, size: int, spread: float) -> NDArray[np.float32]:
    """Random logits, rounded so that some are equal."""
    draw = np.random.default_rng(seed)
    return np.round(draw.standard_normal(size) * spread, 1).astype(np.float32)


def naive_nucleus(logits: NDArray[np.float32], temperature: float, top_p: float) -> list[int]:
    """All tokens sorted by probability, then id; the shortest head that reaches `top_p`."""
    weights = np.exp((logits - logits.max()).astype(np.float64) / temperature)
    order = sorted(range(len(logits)), key=lambda token: (-weights[token], token))
    if top_p >= 1:
        return sorted(order)
    reached = np.cumsum(weights[order]) >= top_p * weights.sum()
    return sorted(order[: 1 + int(reached.argmax())] if reached.any() else order)


@given(rows, st.sampled_from([0.1, 0.7, 1.0, 2.0]), st.sampled_from([0.01, 0.5, 0.9, 0.999, 1.0]))
def test_the_nucleus_is_that_of_a_full_sort(row: tuple[int, int, float], temperature: float, top_p: float) -> None:
    """Sorting only the head gives the very tokens that sorting all would give."""
    logits = logits_of(*row)
    ids, weights = nucleus(logits, temperature, top_p)
    assert ids.tolist() == naive_nucleus(logits, temperature, top_p)
    expected = np.exp((logits[ids] - logits.max()).astype(np.float64) / temperature)
    np.testing.assert_allclose(weights, expected)


@given(rows, st.integers(0, 100))
def test_a_draw_is_in_the_nucleus_and_its_seed_repeats_it(row: tuple[int, int, float], seed: int) -> None:
    """The same generator state gives the same token, and only tokens of the nucleus come out."""
    logits = logits_of(*row)
    first, second = (sample(logits, 0.8, 0.9, np.random.default_rng(seed)) for _ in range(2))
    assert first == second
    assert first in nucleus(logits, 0.8, 0.9)[0]


def test_draws_follow_the_probabilities() -> None:
    """Over many seeded draws each token comes as often as softmax says, within four standard deviations."""
    logits = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))
    draw = np.random.default_rng(0)
    counts = np.bincount([sample(logits, 1.0, 1.0, draw) for _ in range(20_000)], minlength=4) / 20_000
    np.testing.assert_allclose(counts, [0.5, 0.25, 0.15, 0.1], atol=4 * np.sqrt(0.25 / 20_000))
    cut = np.bincount([sample(logits, 1.0, 0.7, draw) for _ in range(2_000)], minlength=4)
    assert cut[2:].sum() == 0


@given(rows)
def test_greedy_takes_the_most_likely(row: tuple[int, int, float]) -> None:
    """The highest logit, the lowest id among equals; a tiny nucleus or temperature comes to the same value."""
    logits = logits_of(*row)
    token = greedy(logits)
    assert token == min(np.flatnonzero(logits == logits.max()))
    assert sample(logits, 1.0, 1e-9, np.random.default_rng(0)) == token
    assert logits[sample(logits, 1e-6, 1.0, np.random.default_rng(0))] == logits.max()


def test_temperature_0_draws_nothing() -> None:
    """A greedy answer leaves the generator as it was."""
    draw = np.random.default_rng(0)
    state = draw.bit_generator.state
    assert chooser(0, 0.5, draw)(np.array([1, 3, 2], np.float32)) == 1
    assert draw.bit_generator.state == state
    chooser(1.0, 0.5, draw)(np.array([1, 3, 2], np.float32))
    assert draw.bit_generator.state != state


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_model_that_gives_no_numbers_is_not_sampled(bad: float) -> None:
    """NaN or infinity among the logits is a broken graph, said so, not token 0."""
    logits = np.array([0.0, bad, 1.0], np.float32)
    for choose in (chooser(0, 1, np.random.default_rng(0)), chooser(1, 0.9, np.random.default_rng(0))):
        with pytest.raises(RequestError, match="for token 1: its graph is broken") as refusal:
            choose(logits)
        assert refusal.value.code == "internal"


def test_tokens_that_cannot_be_are_never_drawn() -> None:
    """A logit of minus infinity has no probability."""
    logits = np.array([0.0, -np.inf, 0.0], np.float32)
    draw = np.random.default_rng(0)
    assert {sample(logits, 2.0, 1.0, draw) for _ in range(200)} == {0, 2}
