"""Answers written together are the answers written alone, whoever joins and leaves between tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.errors import ContextOverflow, RequestError
from edge_agent.manifest import Graph
from edge_agent.runtime.batch import Batch, Generated
from edge_agent.runtime.decoder import Decoder
from edge_agent.runtime.prefix_cache import PrefixCache
from edge_agent.runtime.run_cost import RunCost
from edge_agent.runtime.sampling import greedy
from edge_agent.runtime.step_cost import StepCost

ROWS = 3


@pytest.fixture(scope="module")
def decoder(tiny_graph: tuple[Path, Graph]) -> Decoder:
    return Decoder(*tiny_graph, context=1000, threads=1, rows=ROWS)


@pytest.fixture(scope="module")
def alone(tiny_graph: tuple[Path, Graph]) -> Decoder:
    return Decoder(*tiny_graph, context=1000, threads=1)


def batch_of(decoder: Decoder, *, prefix_bytes: int = 0, guessing: bool = False) -> Batch:
    """Checks of guesses are free, or too dear ever to be tried."""
    cost = RunCost(StepCost(fixed_ms=0.0 if guessing else 1e9, prefill_ms_per_token=0.0, decode_ms_per_token=1000.0))
    return Batch(decoder, PrefixCache(prefix_bytes), cost)


def answer_to(ids: Sequence[int], **options: Any) -> Generated:
    return Generated(ids, **{"choose": greedy, "max_tokens": 12, "stop_ids": (), **options})


def finish(batch: Batch, *answers: Generated) -> None:
    """Run until all have ended."""
    for answer in answers:
        batch.add(answer)
    ended: list[Generated] = []
    while not batch.idle:
        ended += batch.advance()
    assert {id(one) for one in ended} >= {id(one) for one in answers}


def ids_of(length: int, seed: int) -> list[int]:
    drawn: list[int] = np.random.default_rng(seed).integers(0, 384, length).tolist()
    return drawn


def expected(alone: Decoder, ids: Sequence[int], max_tokens: int = 12) -> list[int]:
    return list(alone.generate(ids, choose=greedy, max_tokens=max_tokens, stop_ids=()))


arrivals = st.lists(
    st.tuples(st.integers(0, 6), st.integers(1, 60), st.integers(1, 20), st.integers(0, 4)), min_size=1, max_size=7
)


@settings(max_examples=40, deadline=None)
@given(arrivals=arrivals, prefix_tokens=st.sampled_from([0, 20, 10_000]), guessing=st.booleans())
def test_together_as_alone(
    decoder: Decoder,
    alone: Decoder,
    arrivals: list[tuple[int, int, int, int]],
    prefix_tokens: int,
    guessing: bool,
) -> None:
    """Whatever arrives when, cached or not, guessed or not: fp32 gives the same tokens as one answer at a time."""
    batch = batch_of(decoder, prefix_bytes=prefix_tokens * decoder.cache.bytes_per_token, guessing=guessing)
    pending = sorted((when, ids_of(length, seed), most) for when, length, most, seed in arrivals)
    answers = []
    ended: list[Generated] = []
    for turn in range(10_000):
        while pending and pending[0][0] <= turn:
            _, ids, most = pending.pop(0)
            answers.append(answer_to(ids, max_tokens=most))
            batch.add(answers[-1])
        ended += batch.advance()
        if batch.idle and not pending:
            break
    assert len(ended) == len(answers) == len(arrivals)
    for answer in answers:
        assert answer.tokens == expected(alone, answer.ids, answer.max_tokens)
        assert answer.finish == "length"
        assert answer.began_at <= answer.first_at <= answer.ended_at


def test_what_was_seen_is_not_computed_again(decoder: Decoder, alone: Decoder) -> None:
    """A prompt with a known beginning runs only the rest, an answer's own tokens count, and the last two always run."""
    batch = batch_of(decoder, prefix_bytes=10_000_000)
    first = answer_to(ids_of(40, 1))
    finish(batch, first)
    again = answer_to(first.ids)
    longer = answer_to([*first.ids, *first.tokens[:-1], 5, 6, 7])
    finish(batch, again, longer)
    assert (first.cached, again.cached, longer.cached) == (0, 38, 51)
    assert again.tokens == first.tokens
    assert longer.tokens == expected(alone, longer.ids)


def test_a_long_prompt_stops_nobody(decoder: Decoder) -> None:
    """Between two chunks of it the others get a token each, and each chunk is as long as its time allows."""
    batch = batch_of(decoder)
    batch.cost = RunCost(
        StepCost(fixed_ms=0.0, prefill_ms_per_token=100 / 30, decode_ms_per_token=1.0)
    )  # 30 tokens are a chunk
    short = answer_to(ids_of(5, 1), max_tokens=40)
    batch.add(short)
    batch.advance()
    long = answer_to(ids_of(300, 2), max_tokens=2)
    batch.add(long)
    batch.cost.ran = lambda took_ms, tokens: None  # type: ignore[method-assign]  # a fixed speed
    grown = []
    while not long.tokens:
        before = int(decoder.cache.lengths[1]), len(short.tokens)
        batch.advance()
        grown.append((int(decoder.cache.lengths[1]) - before[0], len(short.tokens) - before[1]))
    assert grown == [(0, 1), (30, 0)] * 10


def test_prompts_take_turns(decoder: Decoder) -> None:
    """A short prompt need not wait for the end of a long one that came before."""
    batch = batch_of(decoder)
    batch.cost = RunCost(StepCost(fixed_ms=0.0, prefill_ms_per_token=2.0, decode_ms_per_token=1.0))
    long, short = answer_to(ids_of(700, 1), max_tokens=1), answer_to(ids_of(4, 2), max_tokens=1)
    batch.add(long)
    batch.advance()
    finish(batch, short)
    assert short.first_at < long.first_at


def test_more_than_there_are_rows_wait(decoder: Decoder) -> None:
    """All are answered, at most as many as there are rows at once."""
    batch = batch_of(decoder)
    answers = [answer_to(ids_of(3 + number, number)) for number in range(3 * ROWS)]
    finish(batch, *answers)
    assert all(answer.finish == "length" for answer in answers)


@pytest.mark.parametrize("after", [0, 1, 4])
def test_one_that_is_not_wanted_leaves_the_others(decoder: Decoder, alone: Decoder, after: int) -> None:
    """It may wait, be fed or be written: its row is free, and the others go on."""
    batch = batch_of(decoder)
    unwanted = False
    going = answer_to(ids_of(200, 3), should_stop=lambda: unwanted, max_tokens=300)
    others = [answer_to(ids_of(9, seed), max_tokens=20) for seed in range(ROWS + 1)]
    for answer in (others[0], going, *others[1:]):
        batch.add(answer)
    for _ in range(after):
        batch.advance()
    unwanted = True
    finish(batch)
    assert going.finish == "cancelled"
    assert len(going.tokens) < 300
    for answer in others:
        assert answer.tokens == expected(alone, answer.ids, 20)


def test_stop_tokens_and_listeners_end_an_answer(decoder: Decoder, alone: Decoder) -> None:
    """A stop token is no token of the answer; who listens may say that it is enough. Also in the middle of a guess."""
    ids = [*ids_of(6, 4)] * 5
    plain = expected(alone, ids, 12)
    for guessing in (False, True):
        batch = batch_of(decoder, guessing=guessing)
        stopped = answer_to(ids, stop_ids={plain[5]})
        told = answer_to(ids, on_token=lambda token: token == plain[5])
        finish(batch, stopped)
        finish(batch, told)
        end = plain.index(plain[5])
        assert (stopped.finish, stopped.tokens) == ("stop", plain[:end])
        assert (told.finish, told.tokens) == ("stop", plain[: end + 1])


def test_guesses_save_runs(decoder: Decoder, alone: Decoder) -> None:
    """An answer that uses its tokens again takes fewer runs of the graph than it has tokens, and is the same."""
    tokens = 800
    poor = min((ids_of(5, seed) for seed in range(40)), key=lambda ids: len(set(expected(alone, ids, tokens))))
    runs = []
    for guessing in (False, True):
        batch = batch_of(decoder, guessing=guessing)
        answer = answer_to(poor, max_tokens=tokens)
        batch.add(answer)
        count = 0
        while not batch.idle:
            batch.advance()
            count += 1
        runs.append(count)
        assert answer.tokens == expected(alone, poor, tokens)
    assert runs[0] == tokens
    assert runs[1] < 0.9 * tokens


def test_a_guessed_token_is_the_likeliest_of_its_check(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a graph gives: every token of the answer is the best of the run that it came from."""
    best: list[int] = []
    check, step_rows = decoder.check, decoder.step_rows

    def checked(ids: Sequence[int], row: int = 0) -> Any:
        logits = check(ids, row)
        wanted = [int(one.argmax()) for one in logits]
        right = next((n for n, guess in enumerate(ids[1:]) if guess != wanted[n]), len(ids) - 1)
        best.extend(wanted[: right + 1])
        return logits

    def stepped(token_ids: Sequence[int]) -> Any:
        logits = step_rows(token_ids)
        best.append(int(logits[0].argmax()))
        return logits

    monkeypatch.setattr(decoder, "check", checked)
    monkeypatch.setattr(decoder, "step_rows", stepped)
    answer = answer_to([*ids_of(6, 4)] * 5, max_tokens=200)
    finish(batch_of(decoder, guessing=True), answer)
    assert answer.tokens[1:] == best[: len(answer.tokens) - 1]


def test_one_that_cannot_be_written_fails_alone(decoder: Decoder) -> None:
    """An error in choosing its token ends it and nobody else."""

    def refuse(logits: object) -> int:
        raise RequestError("internal", "no numbers")

    batch = batch_of(decoder)
    bad, good = answer_to(ids_of(5, 1), choose=refuse), answer_to(ids_of(5, 2))
    finish(batch, bad, good)
    assert (bad.finish, str(bad.error)) == (None, "no numbers")
    assert good.finish == "length"


def test_what_cannot_fit_is_refused(decoder: Decoder) -> None:
    """With its numbers, before anything runs; and nothing is no question."""
    batch = batch_of(decoder)
    with pytest.raises(ContextOverflow, match="990 prompt tokens and 11 answer tokens"):
        batch.add(answer_to(ids_of(990, 1), max_tokens=11))
    with pytest.raises(ValueError, match="no tokens"):
        batch.add(answer_to([]))
    assert batch.idle


def test_what_the_machine_has_no_memory_for_is_refused(
    tiny_graph: tuple[Path, Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the numbers, before it is taken up; what those under way will still take counts."""
    decoder = Decoder(*tiny_graph, context=1000, threads=1, rows=2)
    batch = batch_of(decoder)
    free = [600_000]
    monkeypatch.setattr("edge_agent.runtime.batch.available_bytes", lambda: free[0])
    assert decoder.cache.bytes_per_token == 512
    batch.add(answer_to(ids_of(900, 1), max_tokens=10))
    with pytest.raises(RequestError, match=r"1730 tokens .* need 1 MB for their caches, 1 MB are free") as refused:
        batch.add(answer_to(ids_of(800, 1), max_tokens=20))
    assert refused.value.code == "overloaded"
    batch.add(answer_to(ids_of(200, 1)))
    free[0] = 0
    with pytest.raises(RequestError, match="0 MB are free"):
        batch.add(answer_to(ids_of(2, 1)))
    finish(batch)


def test_all_can_be_forgotten(decoder: Decoder, alone: Decoder) -> None:
    """After a failure the batch starts anew."""
    batch = batch_of(decoder)
    for seed in range(ROWS + 2):
        batch.add(answer_to(ids_of(40, seed)))
    for _ in range(5):
        batch.advance()
    assert len(batch.clear()) == ROWS + 2
    assert batch.idle
    fresh = answer_to(ids_of(7, 9))
    finish(batch, fresh)
    assert fresh.tokens == expected(alone, fresh.ids)
