"""What is learned of network, compute, prompts and lengths."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub import wire
from hub.delay import (
    EXPECTED_TOKENS,
    Cost,
    Flow,
    Lengths,
    Line,
    Spread,
    beyond_ms,
    fit_cost,
    fit_line,
    fit_prompt_size,
    fit_spread,
    peak_ewma,
    seed_cost,
    seed_prompt_size,
    use_of,
)

SERVED = wire.ServedBundle(
    bundle="b", model="m", task="t", context=1, fixed_ms=5.0, prefill_ms_per_token=1.0, decode_ms_per_token=5.0
)


def answered(cost: Cost, prompt: int, completion: int, *, slower: float = 1.0, cached: int = 0) -> Cost:
    """The cost after an answer of a node whose true cost is the seed's, `slower` times."""
    prefill_ms = slower * (5.0 + 1.0 * (prompt - cached))
    decode_ms = slower * 5.0 * completion
    timing = wire.Timing(prefill=prefill_ms, decode=decode_ms, compute=prefill_ms + decode_ms)
    return fit_cost(cost, wire.Tokens(prompt=prompt, cached=cached, completion=completion), timing)


def predicted_ms(cost: Cost, prompt: int, completion: int) -> float:
    return cost.prefill.at(prompt) + cost.decode_ms_per_token * completion


@given(st.floats(0, 1e4), st.floats(0, 1e4), st.floats(0, 100))
def test_network_rises_at_once_and_falls_slowly(estimate: float, sample: float, elapsed: float) -> None:
    """A worse sample counts in full, a better one pulls the estimate towards it and not past it."""
    after = peak_ewma(estimate, sample, elapsed)
    if sample >= estimate:
        assert after == sample
    else:
        assert sample <= after <= estimate


def test_network_time_constant() -> None:
    """After ten seconds a spike has fallen to 1/e."""
    assert peak_ewma(100.0, 0.0, 10.0) == pytest.approx(36.79, abs=0.01)


def test_seed_is_believed_until_there_are_answers() -> None:
    """A new node is priced as its bundle says."""
    cost = seed_cost(SERVED)
    assert (cost.fixed_ms, cost.prefill_ms_per_token, cost.decode_ms_per_token) == (5.0, 1.0, 5.0)


@pytest.mark.parametrize("prompts", [[37] * 5, [20, 60, 30, 50, 40], [10, 800, 25, 300, 60]])
def test_throttled_node_is_priced_so_within_five_answers(prompts: list[int]) -> None:
    """A node that becomes three times slower is priced within a fifth of that after five answers."""
    cost = seed_cost(SERVED)
    for prompt in [30, 50, 40, 70, 35, 60]:
        cost = answered(cost, prompt, 12)
    for prompt in prompts:
        cost = answered(cost, prompt, 12, slower=3.0)
    true_ms = 3.0 * (5.0 + 40 + 5.0 * 12)
    assert predicted_ms(cost, 40, 12) == pytest.approx(true_ms, rel=0.2)


def test_constant_prompts_do_not_wind_up() -> None:
    """A thousand equal prompts leave the price of a ten times longer one where it was."""
    cost = seed_cost(SERVED)
    draw = random.Random(1)
    for _ in range(1000):
        cost = answered(cost, 37, 8, slower=draw.uniform(0.95, 1.05))
    assert predicted_ms(cost, 370, 8) == pytest.approx(5 + 370 + 40, rel=0.15)


def test_wrong_seed_is_outgrown() -> None:
    """With a seed ten times too dear, prompts of many lengths show the true price."""
    dear = wire.ServedBundle(
        bundle="b", model="m", task="t", context=1, fixed_ms=50, prefill_ms_per_token=10, decode_ms_per_token=50
    )
    cost = seed_cost(dear)
    draw = random.Random(2)
    for _ in range(150):
        cost = answered(cost, draw.randrange(10, 500), draw.randrange(1, 60))
    for prompt in (20, 200):
        assert predicted_ms(cost, prompt, 10) == pytest.approx(5 + prompt + 50, rel=0.1)


def test_cached_tokens_cost_nothing() -> None:
    """Only computed prompt tokens are charged to the prefill."""
    cost = seed_cost(SERVED)
    for _ in range(20):
        cost = answered(cost, 200, 8, cached=190)
    assert predicted_ms(cost, 10, 8) == pytest.approx(5 + 10 + 40, rel=0.02)


@given(
    st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e7)), max_size=30),
    st.floats(0, 100),
    st.floats(0, 100),
)
def test_lines_are_never_negative(points: list[tuple[float, float]], offset: float, slope: float) -> None:
    """Whatever is reported, neither the fixed nor the per-token cost becomes negative or infinite."""
    line = Line.seeded(offset, slope, typical_x=64.0, keep=0.7)
    for x, y in points:
        line = fit_line(line, x, y)
        assert 0 <= line.offset < 1e12
        assert 0 <= line.slope < 1e12


@pytest.mark.parametrize(
    ("tokens", "timing"),
    [
        (wire.Tokens(prompt=5, cached=9), wire.Timing(prefill=1)),
        (wire.Tokens(prompt=2**50), wire.Timing(prefill=1)),
        (wire.Tokens(prompt=5, completion=2**50), wire.Timing(decode=1)),
        (wire.Tokens(prompt=5), wire.Timing(compute=1e11)),
        (wire.Tokens(prompt=5, completion=1), wire.Timing(decode=1e11, compute=1e11)),
    ],
)
def test_impossible_reports_teach_nothing(tokens: wire.Tokens, timing: wire.Timing) -> None:
    """A report that cannot be true leaves the cost as it is."""
    cost = seed_cost(SERVED)
    assert fit_cost(cost, tokens, timing) == cost


def test_answer_without_tokens_teaches_no_decoding() -> None:
    """A classification has no completion tokens: only its prefill is learned."""
    cost = answered(seed_cost(SERVED), 30, 0, slower=2.0)
    assert cost.decode_ms_per_token == 5.0
    assert cost.prefill.at(30) > 35


def test_prompt_sizes_are_learned() -> None:
    """Template overhead and tokens per character follow the tokenizer's counts."""
    line = seed_prompt_size()
    for chars in (30, 200, 60, 400, 100, 1000) * 5:
        line = fit_prompt_size(line, chars, round(29 + chars / 3.7))
    assert line.at(30) == pytest.approx(37, abs=2)
    assert line.at(800) == pytest.approx(29 + 800 / 3.7, rel=0.03)
    assert fit_prompt_size(line, 10, 2**40) == line
    assert fit_prompt_size(line, 10, 0) == line


def test_lengths_by_device_and_task() -> None:
    """A device's own answers count; a new device starts at its task's mean; `max_tokens` caps."""
    lengths = Lengths(100)
    assert lengths.expected("kitchen", "chat", None) == EXPECTED_TOKENS
    assert lengths.expected("kitchen", "chat", 16) == 16
    for _ in range(30):
        lengths.learn("kitchen", "chat", 8)
        lengths.learn("library", "chat", 200)
    assert lengths.expected("kitchen", "chat", None) == pytest.approx(8, abs=2)
    assert lengths.expected("library", "chat", None) == pytest.approx(200, rel=0.05)
    assert lengths.expected("library", "chat", 50) == 50
    assert 8 < lengths.expected("garden", "chat", None) < 200
    assert lengths.expected("kitchen", "summary", None) == EXPECTED_TOKENS


def test_one_short_answer_does_not_shorten_another_device() -> None:
    """After a single answer of 7 tokens a new device is still expected to get a paragraph, nearly."""
    lengths = Lengths(100)
    lengths.learn("kitchen", "chat", 7)
    assert lengths.expected("library", "chat", None) > 0.75 * EXPECTED_TOKENS
    assert lengths.expected("kitchen", "chat", None) < 0.6 * EXPECTED_TOKENS


def test_lengths_are_bounded() -> None:
    """Devices by the thousand do not fill the memory, absurd counts are ignored."""
    lengths = Lengths(50)
    for number in range(1000):
        lengths.learn(f"d{number}", f"t{number}", 5)
    assert len(lengths._devices) <= 50
    assert len(lengths._tasks) <= 64
    lengths.learn("x", "y", 2**53)
    assert lengths.expected("x", "y", None) == EXPECTED_TOKENS


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9)), max_size=50))
def test_spread_is_a_number_whatever_came(answers: list[tuple[float, float]]) -> None:
    """Never negative, never more than what one answer is let say."""
    spread = Spread()
    for predicted_ms, actual_ms in answers:
        spread = fit_spread(spread, predicted_ms, actual_ms)
        assert 0.0 <= spread.variance <= 36.0
        assert -3.0 <= spread.mean <= 3.0


def test_spread_learns_how_sure_a_prediction_is() -> None:
    """Answers as predicted make it narrow, answers all over the place make it wide."""
    sure, unsure = Spread(), Spread()
    for actual_ms in (95, 105, 100, 98) * 10:
        sure = fit_spread(sure, 100, actual_ms)
    for actual_ms in (20, 500, 80, 200) * 10:
        unsure = fit_spread(unsure, 100, actual_ms)
    assert sure.variance < 0.02 < 0.5 < unsure.variance


@given(st.floats(0.01, 2), st.floats(-2, 2), st.floats(0, 1e5), st.floats(0, 1e5))
def test_what_was_cut_off_would_have_taken_longer(
    deviation: float, mean: float, predicted_ms: float, at_least_ms: float
) -> None:
    """And by the spread no less than the usual answer; a spread without width adds nothing."""
    spread = Spread(weight=20.0, mean=mean, variance=deviation**2)
    found = beyond_ms(spread, predicted_ms, at_least_ms)
    usual_ms = (predicted_ms + 1) * math.exp(mean) - 1
    assert found >= max(at_least_ms, usual_ms) * (1 - 1e-6) - 1e-3
    assert beyond_ms(Spread(variance=0.0), predicted_ms, at_least_ms) == at_least_ms


def test_spread_of_answers_that_are_cut_off() -> None:
    """Learned from what came within the budget and from what did not, it is near to the truth; else far too short."""
    draw = random.Random(3)
    whole = cut = naive = Spread()
    means: list[tuple[float, float]] = []
    for _ in range(3000):
        actual_ms = 100 * math.exp(draw.gauss(0.7, 0.6))
        whole = fit_spread(whole, 100, actual_ms)
        cut = fit_spread(cut, 100, actual_ms if actual_ms < 200 else beyond_ms(cut, 100, 200))
        naive = fit_spread(naive, 100, min(actual_ms, 200))
        means.append((cut.mean, naive.mean))
    cut_mean, naive_mean = (sum(column) / len(means) for column in zip(*means, strict=True))
    assert cut_mean == pytest.approx(0.7, abs=0.15)
    assert naive_mean < 0.6


def test_use_is_of_all_slots() -> None:
    """Two answers at once for half of the time are half of what two slots can do."""
    flow = Flow(since_s=0.0, at_s=600.0, answers=60.0, compute_ms=60_000.0)
    assert use_of(flow, 2, 600.0)[1] == pytest.approx(0.5, abs=0.01)
