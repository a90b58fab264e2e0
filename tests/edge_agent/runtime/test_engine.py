"""From question to text: defaults, limits, streaming, stopping, and what is refused when a bundle is opened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent.errors import BundleError, ContextOverflow, InputError, RequestError, RuntimeUnavailable
from edge_agent.manifest import GenerationDefaults, Graph, Manifest, ModelInfo
from edge_agent.runtime.engine import Engine, open_engine
from edge_agent.runtime.generation import Generation
from edge_agent.runtime.step_cost import StepCost
from hub.wire import Question

ROOT = Path(__file__).resolve().parent.parent.parent.parent


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Iterator[Engine]:
    opened = open_engine(tiny_bundle, threads=1)
    yield opened
    opened.close()


def ask(engine: Engine, text: str = "What is the capital of France?", **fields: Any) -> Generation:
    return engine.answer(Question(question=text, **fields), should_stop=lambda: False)


def test_an_answer_counts_and_times_itself(engine: Engine) -> None:
    """Tokens are those of prompt and text, times add up, the text is that of the ids."""
    given = ask(engine, max_tokens=10)
    prompt = engine.tokenizer.encode_question(Question(question="What is the capital of France?"))
    assert given.tokens.prompt == len(prompt)
    assert given.tokens.completion == len(given.token_ids) == 10
    assert given.tokens.cached == 0
    assert given.finish == "length"
    assert given.text == engine.tokenizer.decode_cut(given.token_ids)
    assert engine.tokenizer.decode(given.token_ids).startswith(given.text)
    assert given.prefill_ms > 0
    assert given.decode_ms >= 0
    assert given.prefill_ms + given.decode_ms <= given.compute_ms


def test_an_answer_at_its_limit_ends_with_a_whole_character(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where max_tokens cuts a character in two, neither the text nor its stream shows the half; a stop keeps all."""
    ids = engine.tokenizer.encode("ab🐻")
    assert engine.tokenizer.decode(ids[:-1]).endswith("�")
    for max_tokens, text in ((len(ids) - 1, "ab"), (len(ids), "ab🐻")):
        said = iter(ids)
        monkeypatch.setattr(engine, "_chooser", lambda question, said=said: lambda logits: next(said))
        pieces: list[str] = []
        question = Question(question="?", max_tokens=max_tokens)
        given = engine.answer(question, should_stop=lambda: False, on_text=pieces.append)
        assert (given.finish, given.text, "".join(pieces)) == ("length", text, text)
        assert given.tokens.completion == max_tokens


def test_an_answer_is_greedy_by_default_and_repeats_itself(engine: Engine) -> None:
    """The same question gives the same answer, whatever was asked between."""
    first = ask(engine)
    ask(engine, "Something else")
    assert ask(engine).token_ids == first.token_ids


def test_a_seed_repeats_a_sampled_answer(engine: Engine) -> None:
    """With temperature the seed decides; without one, answers differ."""
    seeded = [ask(engine, temperature=1.5, seed=7).token_ids for _ in range(2)]
    assert seeded[0] == seeded[1]
    free = {ask(engine, temperature=2.0).token_ids for _ in range(4)}
    assert len(free) > 1


def test_defaults_are_the_bundles(make_bundle: Callable[..., Path]) -> None:
    """Length and temperature come from the manifest where the question does not say."""
    defaults = GenerationDefaults(stop_ids=(), max_tokens=7, temperature=2.0)
    engine = open_engine(make_bundle(generation=defaults), threads=1)
    answers = {ask(engine).token_ids for _ in range(4)}
    assert {len(answer) for answer in answers} == {7}
    assert len(answers) > 1
    assert len({ask(engine, temperature=0.0).token_ids for _ in range(3)}) == 1


def test_a_stop_token_ends_the_answer_and_is_not_in_it(make_bundle: Callable[..., Path], engine: Engine) -> None:
    """`finish` says why it ended."""
    free = ask(engine, max_tokens=20)
    assert free.finish == "length"
    stop = free.token_ids[3]
    stopping = open_engine(make_bundle(generation=GenerationDefaults(stop_ids=(stop,))), threads=1)
    ended = ask(stopping, max_tokens=20)
    assert ended.finish == "stop"
    assert ended.token_ids == free.token_ids[: free.token_ids.index(stop)]


def test_pieces_join_to_the_text(engine: Engine) -> None:
    """What is streamed is the answer, in whole characters, without empty pieces."""
    for seed in range(10):
        pieces: list[str] = []
        question = Question(question="Hi", temperature=2.0, seed=seed, max_tokens=30)
        given = engine.answer(question, should_stop=lambda: False, on_text=pieces.append)
        assert "".join(pieces) == given.text
        assert all(pieces)


def test_an_answer_can_be_stopped(engine: Engine) -> None:
    """It ends within one token as `cancelled`, with what there is; before the prompt there is nothing."""
    asked = iter([False, False, True])
    given = engine.answer(Question(question="Hi"), should_stop=lambda: next(asked))
    assert given.finish == "cancelled"
    assert len(given.token_ids) == 2
    nothing = engine.answer(Question(question="Hi"), should_stop=lambda: True)
    assert (nothing.finish, nothing.text, nothing.token_ids) == ("cancelled", "", ())
    assert ask(engine).finish == "length"


def test_a_prompt_that_does_not_fit_is_refused_with_the_numbers(tiny_bundle: Path) -> None:
    """The failure code is `too_large`; the next question is answered."""
    engine = open_engine(tiny_bundle, context=64, threads=1)
    with pytest.raises(ContextOverflow, match="context of 64") as overflow:
        ask(engine, "word " * 200)
    assert overflow.value.code == "too_large"
    assert overflow.value.prompt_tokens > 64
    assert ask(engine, "Hi", max_tokens=3).tokens.completion == 3


def test_an_asked_length_must_fit_a_default_is_cut(tiny_bundle: Path, engine: Engine) -> None:
    """An explicit max_tokens beyond the context is refused; the bundle's default takes what is left."""
    prompt = ask(engine, "Hi", max_tokens=1).tokens.prompt
    small = open_engine(tiny_bundle, context=prompt + 5, threads=1)
    assert ask(small, "Hi").tokens.completion == 5
    assert ask(small, "Hi", max_tokens=5).tokens.completion == 5
    with pytest.raises(ContextOverflow) as overflow:
        ask(small, "Hi", max_tokens=6)
    assert (overflow.value.prompt_tokens, overflow.value.max_tokens) == (prompt, 6)
    full = open_engine(tiny_bundle, context=prompt, threads=1)
    with pytest.raises(ContextOverflow):
        ask(full, "Hi")


def test_another_task_is_refused(engine: Engine) -> None:
    """A bundle that writes text does not embed it."""
    assert ask(engine, task="text-generation").text is not None
    with pytest.raises(RequestError, match="does text-generation, not embedding") as refusal:
        ask(engine, task="embedding")
    assert refusal.value.code == "unsupported"


def test_what_the_hub_is_told(tiny_bundle: Path) -> None:
    """Bundle, model, task and cost are the manifest's, the context is the engine's."""
    engine = open_engine(tiny_bundle, threads=1)
    served, manifest = engine.served, engine.manifest
    assert (served.bundle, served.model, served.task) == (manifest.bundle_id, "tiny", "text-generation")
    assert (served.fixed_ms, served.prefill_ms_per_token, served.decode_ms_per_token) == (1.0, 0.5, 2.0)
    assert served.context == 1024


def test_a_machine_that_slows_down_is_priced_so(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a look between questions, and by the answers themselves; both ways, within a few of either."""
    engine = open_engine(tiny_bundle, threads=1)
    engine.priced(StepCost(fixed_ms=1.0, prefill_ms_per_token=0.1, decode_ms_per_token=1.0))
    step_rows = engine.decoder.step_rows

    def slow(token_ids: Any) -> Any:
        end = time.perf_counter() + 0.05
        while time.perf_counter() < end:
            pass
        return step_rows(token_ids)

    monkeypatch.setattr(engine.decoder, "step_rows", slow)
    for _ in range(3):
        engine.tend()
    slowed = engine.served
    assert slowed.decode_ms_per_token > 43
    assert slowed.prefill_ms_per_token == pytest.approx(0.1 * slowed.decode_ms_per_token)
    monkeypatch.undo()
    ask(engine, "What?", max_tokens=60)
    assert engine.served.decode_ms_per_token < slowed.decode_ms_per_token / 3


@pytest.mark.parametrize(("length", "context"), [(1024, 1024), (9000, 4096)])
def test_the_default_context_is_the_models_up_to_4096(
    length: int, context: int, make_bundle: Callable[..., Path], engine: Engine
) -> None:
    """A model with a long context does not cost its whole cache unasked."""
    model: ModelInfo = msgspec.structs.replace(engine.manifest.model, context_length=length)
    opened = open_engine(make_bundle(model=model), threads=1)
    assert opened.served.context == context
    assert opened.decoder.cache_bytes == 256 * engine.decoder.cache.bytes_per_token


@pytest.mark.parametrize("context", [0, 1, 1025, -5])
def test_a_context_the_model_does_not_have_is_refused(context: int, tiny_bundle: Path) -> None:
    """It is not silently changed."""
    with pytest.raises(InputError, match=r"choose 2 to 1024"):
        open_engine(tiny_bundle, context=context)


# --- bundles that must not be opened --------------------------------------------------------------------


def test_a_bundle_without_a_graph_for_this_runtime(make_bundle: Callable[..., Path], tiny_graph: Any) -> None:
    """A bundle of other dialects only cannot run here."""
    other = msgspec.structs.replace(tiny_graph[1], dialect="plain")
    with pytest.raises(RuntimeUnavailable, match="no graph of dialect 'ort'"):
        open_engine(make_bundle(graphs=(other,)))


def test_weights_beside_the_graph_are_read(
    make_bundle: Callable[..., Path], make_graph: Callable[..., Graph], engine: Engine
) -> None:
    """External data inside the bundle is the normal case, and gives the same answer."""
    path = make_bundle(lambda staging: make_graph(staging / "model/decoder.onnx", external="decoder.data"))
    assert (path / "model/decoder.data").exists()
    assert ask(open_engine(path, threads=1)).token_ids == ask(engine).token_ids


def test_a_tokenizer_with_more_ids_than_the_graph_is_refused(
    make_bundle: Callable[..., Path], make_graph: Callable[..., Graph]
) -> None:
    """A prompt could hold an id that the embedding lacks."""

    def change(staging: Path) -> Graph:
        return make_graph(staging / "model/decoder.onnx", vocabulary=300)

    with pytest.raises(BundleError, match="ids up to 319, the graph takes 300"):
        open_engine(make_bundle(change))


def test_an_id_behind_a_gap_of_the_vocabulary_fails_the_question(make_bundle: Callable[..., Path]) -> None:
    """Opening does not see it: the vocabulary has no more entries than the graph has rows."""

    def change(staging: Path) -> None:
        path = staging / "tokenizer" / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        tokenizer["model"]["vocab"]["H"] = 5000
        path.write_text(json.dumps(tokenizer))

    engine = open_engine(make_bundle(change), threads=1)
    with pytest.raises(RequestError, match="gives id 5000, its graph takes 384") as refusal:
        ask(engine, "Hi")
    assert refusal.value.code == "internal"
    assert ask(engine, "xyz").token_ids


def test_a_graph_that_computes_no_numbers_fails_the_question(
    make_bundle: Callable[..., Path], make_graph: Callable[..., Graph]
) -> None:
    """NaN is an `internal` failure that says so, not an answer."""
    path = make_bundle(lambda staging: make_graph(staging / "model/decoder.onnx", poison=True))
    with pytest.raises(RequestError, match="its graph is broken") as refusal:
        ask(open_engine(path, threads=1))
    assert refusal.value.code == "internal"


def test_running_loads_nothing_that_a_device_lacks(tiny_bundle: Path) -> None:
    """Answering in a fresh process imports neither torch nor transformers nor onnx."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom edge_agent.runtime.engine import open_engine\n"
        "from hub.wire import Question\nengine = open_engine(Path(sys.argv[1]), threads=1)\n"
        "engine.answer(Question(question='Hi'), should_stop=lambda: False)\n"
        "print([name for name in ('torch', 'transformers', 'onnx', 'optimum', 'exporter') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tiny_bundle)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


# --- the real model -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(bundle: Path) -> Iterator[Engine]:
    opened = open_engine(bundle, threads=2)
    yield opened
    opened.close()


@pytest.mark.model
def test_the_real_bundle_knows_the_capital_of_france(real: Engine) -> None:
    """Paris, streamed in pieces, ended by the model itself."""
    pieces: list[str] = []
    question = Question(question="What is the capital of France?")
    given = real.answer(question, should_stop=lambda: False, on_text=pieces.append)
    assert "Paris" in given.text
    assert "".join(pieces) == given.text
    assert given.finish == "stop"
    assert given.tokens.prompt == 37


@pytest.mark.model
def test_the_real_bundle_repeats_its_samples(real: Engine) -> None:
    """The greedy tokens written into the manifest come out again where it was made."""
    manifest: Manifest = real.manifest
    for sample in manifest.samples:
        stop = set(manifest.generation.stop_ids)
        asked = len([token for token in sample.token_ids if token not in stop]) or 1
        given = ask(real, sample.prompt, max_tokens=asked, temperature=0.0)
        assert list(given.token_ids) == [token for token in sample.token_ids if token not in stop]
