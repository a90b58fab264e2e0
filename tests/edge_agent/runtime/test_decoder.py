"""Decoding with caches bound in place: every way to feed a sequence gives the same logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.errors import BundleError, ContextOverflow
from edge_agent.manifest import Graph
from edge_agent.runtime.decoder import Decoder
from edge_agent.runtime.row_decoder import CHUNK_TOKENS, chunks
from edge_agent.runtime.sampling import greedy

VOCABULARY = 384
CLOSE = {"atol": 2e-4, "rtol": 0}  # float32 summed in another order


@pytest.fixture(scope="module")
def decoder(tiny_graph: tuple[Path, Graph]) -> Decoder:
    return Decoder(*tiny_graph, context=1000, threads=1)


def ids_of(length: int, seed: int = 0) -> list[int]:
    drawn: list[int] = np.random.default_rng(seed).integers(0, VOCABULARY, length).tolist()
    return drawn


def reference(tiny_graph: tuple[Path, Graph], ids: list[int]) -> Any:
    """Logits of every position by one plain run, without binding, growth or chunks."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tiny_graph[0]), providers=["CPUExecutionProvider"])
    feed = {
        "input_ids": np.array([ids], np.int64),
        "seqlens_k": np.array([len(ids) - 1], np.int32),
        "logits_to_keep": np.arange(len(ids)),
    }
    for value in session.get_inputs():
        if value.name.startswith("past"):
            feed[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
    return session.run(["logits"], feed)[0][0]


@pytest.mark.parametrize("length", [1, 2, 37, 255, 256, 257, 600])
def test_logits_of_all_positions_are_those_of_a_plain_run(
    length: int, decoder: Decoder, tiny_graph: tuple[Path, Graph]
) -> None:
    """Below, at and above the first cache size, and in more than one chunk."""
    ids = ids_of(length)
    np.testing.assert_allclose(decoder.logits(ids), reference(tiny_graph, ids), **CLOSE)


def test_steps_equal_a_prefill(tiny_graph: tuple[Path, Graph]) -> None:
    """Token by token through two growths of the cache, each logit equals that of one run over all."""
    ids = ids_of(600)
    expected = reference(tiny_graph, ids)
    decoder = Decoder(*tiny_graph, context=1000, threads=1)
    for position, token in enumerate(ids):
        np.testing.assert_allclose(decoder.step(token), expected[position], **CLOSE)
    assert decoder.length == 600


@settings(max_examples=30)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=8), st.integers(0, 9))
def test_any_split_gives_the_same(decoder: Decoder, sizes: list[int], seed: int) -> None:
    """However a sequence is cut into runs, the next token's logits are the same."""
    ids = ids_of(sum(sizes), seed)
    expected = decoder.prefill(ids).copy()
    decoder.reset()
    start = 0
    for size in sizes:
        logits = decoder.extend(ids[start : start + size])
        start += size
    np.testing.assert_allclose(logits, expected, **CLOSE)


def test_a_new_sequence_sees_nothing_of_the_last(decoder: Decoder) -> None:
    """After a long sequence a short one gives what a fresh decoder gives."""
    short = ids_of(5, seed=1)
    expected = decoder.prefill(short).copy()
    decoder.prefill(ids_of(700, seed=2))
    np.testing.assert_array_equal(decoder.prefill(short), expected)
    assert decoder.length == 5


def test_a_long_prompt_is_fed_in_chunks(decoder: Decoder) -> None:
    """`feed` gives logits after each chunk, the last of which are those of `prefill`."""
    ids = ids_of(900)
    fed = [(logits.copy(), decoder.length) for logits in decoder.feed(ids)]
    assert [length for _, length in fed] == [450, 900]
    np.testing.assert_array_equal(decoder.prefill(ids), fed[-1][0])


@given(st.integers(1, 5000))
def test_chunks_are_even_and_lose_nothing(length: int) -> None:
    """Their sizes differ by one at most, none is too long, none of several has one token."""
    parts = list(chunks(range(length)))
    sizes = [len(part) for part in parts]
    assert [token for part in parts for token in part] == list(range(length))
    assert max(sizes) <= CHUNK_TOKENS
    assert max(sizes) - min(sizes) <= 1
    assert length == 1 or min(sizes) > 1


def test_the_cache_grows_only_when_needed(tiny_graph: tuple[Path, Graph]) -> None:
    """256 positions first, then doubled, ending exactly at the context."""
    decoder = Decoder(*tiny_graph, context=1000, threads=1)
    per_position = decoder.cache_bytes // 256
    seen = []
    for length in (1, 256, 257, 513, 1000):
        decoder.prefill(ids_of(length))
        seen.append(decoder.cache_bytes // per_position)
    assert seen == [256, 256, 512, 1000, 1000]


def test_steps_allocate_nothing(decoder: Decoder) -> None:
    """Consecutive steps give their logits in the same memory and keep the same binding."""
    decoder.prefill(ids_of(10))
    decoder.step(0)
    binding = decoder._steps[1]
    first, second = decoder.step(1), decoder.step(2)
    assert np.shares_memory(first, second)
    assert decoder._steps[1] is binding


def test_rows_step_together(tiny_graph: tuple[Path, Graph]) -> None:
    """Sequences of unlike lengths, one token each in one run: each gets the logits that it would get alone."""
    decoder = Decoder(*tiny_graph, context=1000, threads=1, rows=3)
    prompts = [ids_of(length, seed=length) for length in (3, 300, 40)]
    for row, prompt in enumerate(prompts):
        decoder.extend(prompt, row)
    for step in range(4):
        together = decoder.step_rows([7 + step, 8, 9]).copy()
        for row, prompt in enumerate(prompts):
            prompt.append([7 + step, 8, 9][row])
            np.testing.assert_allclose(together[row], reference(tiny_graph, prompt)[-1], **CLOSE)
    assert decoder.cache.lengths.tolist() == [7, 304, 44]


def test_a_check_gives_every_tokens_logits_and_can_be_taken_back(tiny_graph: tuple[Path, Graph]) -> None:
    """Behind a sequence in any row; after `rewind` the sequence goes on as if the rest had not been."""
    decoder = Decoder(*tiny_graph, context=1000, threads=1, rows=2)
    ids = ids_of(30)
    expected = reference(tiny_graph, ids)
    decoder.extend(ids[:20], 1)
    np.testing.assert_allclose(decoder.check(ids[20:25], 1), expected[20:25], **CLOSE)
    decoder.check([1, 2, 3], 1)
    decoder.rewind(25, 1)
    np.testing.assert_allclose(decoder.extend(ids[25:], 1), expected[-1], **CLOSE)


@pytest.mark.parametrize("feed", [lambda d, ids: d.prefill(ids), lambda d, ids: d.logits(ids)])
def test_what_does_not_fit_is_refused_with_the_numbers(
    feed: Callable[[Decoder, list[int]], Any], decoder: Decoder
) -> None:
    """A prompt longer than the context is not cut."""
    with pytest.raises(ContextOverflow) as overflow:
        feed(decoder, ids_of(1001))
    assert (overflow.value.prompt_tokens, overflow.value.context) == (1001, 1000)


def test_the_last_position_can_be_used(decoder: Decoder) -> None:
    """A sequence as long as the context is fine; the step after it is refused and changes nothing."""
    decoder.prefill(ids_of(999))
    decoder.step(1)
    with pytest.raises(ContextOverflow):
        decoder.step(1)
    assert decoder.length == 1000


@pytest.mark.parametrize("ids", [[-1], [VOCABULARY], [1, VOCABULARY], [1, -5, 2]])
def test_ids_outside_the_vocabulary_are_refused(ids: list[int], decoder: Decoder) -> None:
    """They would read memory that is not the embedding's."""
    with pytest.raises(ValueError, match="outside the vocabulary of 384"):
        decoder.prefill(ids)
    with pytest.raises(ValueError, match="no tokens"):
        decoder.prefill([])


def generated(decoder: Decoder, ids: list[int], **options: Any) -> list[int]:
    return list(decoder.generate(ids, **{"choose": greedy, "max_tokens": 20, "stop_ids": (), **options}))


def test_generation_is_greedy_decoding(decoder: Decoder, tiny_graph: tuple[Path, Graph]) -> None:
    """Each token is the argmax of a plain run over all that came before."""
    ids = ids_of(12)
    tokens = generated(decoder, ids, max_tokens=8)
    for count, token in enumerate(tokens):
        assert token == reference(tiny_graph, ids + tokens[:count])[-1].argmax()
    assert len(tokens) == 8


def test_generation_ends_at_a_stop_token(decoder: Decoder) -> None:
    """The stop token is yielded, and is the last."""
    free = generated(decoder, ids_of(12))
    stop = free[4]
    assert generated(decoder, ids_of(12), stop_ids={stop}) == free[: free.index(stop) + 1]


def test_generation_fills_the_context_and_no_more(decoder: Decoder) -> None:
    """Prompt and answer together may be as long as the context."""
    assert len(generated(decoder, ids_of(980), max_tokens=20)) == 20
    with pytest.raises(ContextOverflow) as overflow:
        generated(decoder, ids_of(981), max_tokens=20)
    error = overflow.value
    assert (error.prompt_tokens, error.max_tokens, error.context) == (981, 20, 1000)


def test_generation_can_be_stopped_between_runs(decoder: Decoder) -> None:
    """`should_stop` is asked before the prompt, between its chunks, and after each token."""
    asked = 0

    def stop_at(count: int) -> Callable[[], bool]:
        nonlocal asked
        asked = 0

        def should_stop() -> bool:
            nonlocal asked
            asked += 1
            return asked >= count

        return should_stop

    decoder.reset()
    assert generated(decoder, ids_of(900), should_stop=stop_at(1)) == []
    assert decoder.length == 0
    assert generated(decoder, ids_of(900), should_stop=stop_at(2)) == []
    assert decoder.length == 450
    assert len(generated(decoder, ids_of(10), should_stop=stop_at(5))) == 3


def test_threads_do_not_change_the_answer(decoder: Decoder, tiny_graph: tuple[Path, Graph]) -> None:
    """Two threads give the same tokens as one."""
    assert generated(Decoder(*tiny_graph, context=100, threads=2), ids_of(9)) == generated(decoder, ids_of(9))


def test_a_graph_unlike_its_manifest_is_refused(tmp_path: Path, make_graph: Callable[..., Graph]) -> None:
    """The contract is checked when the decoder is made."""
    graph = make_graph(tmp_path / "g.onnx")
    import msgspec

    with pytest.raises(BundleError, match="outputs of graph and manifest"):
        Decoder(tmp_path / "g.onnx", msgspec.structs.replace(graph, outputs=("logits",)), context=10)
