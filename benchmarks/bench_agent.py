"""The agent against llama.cpp, onnxruntime-genai and PyTorch, on the same weights with the same threads, in one run.

    python benchmarks/bench_agent.py [--threads N] [--rounds 7] [--new-tokens 96] [--only NAME]...

All start from one GGUF file, which its publisher quantized to Q4_1: fp32 means the weights that this file holds, and
everybody's formats are made from those, by everybody's own tools (`formats.py` says how). llama.cpp's Q4_0 and Q8_0 are
its quantization of the fp32 weights; the int4 bundle keeps the file's own codes, because the exporter reads them: how
much closer to fp32 that is, KL tells.

Each contender lives in a process of its own; one works at a time, in interleaved rounds, after a warm-up, with the same
token ids, greedily, without stopping at a stop token. A round of one contender, each part from an empty cache:

    first token  of the 37 tokens of "What is the capital of France?" in the model's chat template
    cold, warm   of a short question behind a system prompt; then of another question behind the same system prompt,
                 the keys and values of which were kept, as each library offers it
    prefill      of 512 tokens of text
    decode       of 96 tokens behind the 37

Start (a fresh Python process to the first token, the library's own tokenizer and template included), load and peak
memory come from processes that do nothing else (`first_token.py`); KL from one-token steps over text that the model has
written (`reference.py`). The memory floor is what one token must read, over the best bandwidth that as many threads
reached in any round. Ratios are medians over the rounds. The start of each answer is shown, because speed without it
says nothing. Prints a table, the goals, and one line of JSON. Only a machine with nothing else to do gives ratios that
mean something: threads that wait for each other lose more than their share of a busy core.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

import encoders
import formats
import reference
import together
from contenders import CONTENDERS
from first_token import QUESTION, measure
from goals import judge
from model import ENCODER, fetch
from rounds import alone, interleaved, note
from table import goal_lines, table

from edge_agent.bench import cache_bytes, read_bandwidth
from edge_agent.bundle import open_bundle
from edge_agent.onnx_file import read_onnx
from edge_agent.runtime.engine import decoder_graph
from edge_agent.runtime.session import default_threads
from edge_agent.tokenizer import Tokenizer, open_tokenizer
from hub.wire import ChatMessage, Question

OTHER_QUESTION: Final = "Who painted the Mona Lisa?"
SYSTEM_PROMPT: Final = (
    "You are the assistant of a small workshop. You answer questions about its machines, its tools and its materials, "
    "and about the world where somebody asks. Answer in at most three short sentences, in plain words, without lists. "
    "If a question is about safety, name the danger first, then what to do, then whom to call. If you do not know an "
    "answer, say so and tell where one would look for it. Never invent a part number, a price or a date. Give lengths "
    "in millimetres, weights in kilograms and temperatures in degrees Celsius. The workshop opens at seven in the "
    "morning and closes at five in the afternoon; on Saturdays it closes at noon, and on Sundays it stays closed."
)
PREFILL_TOKENS: Final = 512
PACKAGES: Final = ("llama-cpp-python", "onnxruntime", "onnxruntime-genai", "torch", "transformers")


class Prompts(NamedTuple):
    """Token ids. `cold` and `warm` begin with the same `known` tokens."""

    short: list[int]
    cold: list[int]
    warm: list[int]
    known: int
    long: list[int]


class Sample(NamedTuple):
    """One round of one contender."""

    ttft_ms: float
    cold_ms: float
    warm_ms: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    token_ids: list[int]


# --- one contender --------------------------------------------------------------------------------------


def job(name: str, path: Path, threads: int, prompts: Prompts, new_tokens: int) -> Callable[[], Sample]:
    """Open the contender; what measures one round."""
    contender = CONTENDERS[name](path, threads)

    def first_ms(ids: Sequence[int], known: int = 0) -> float:
        started = time.perf_counter()
        contender.first(ids, known)
        return 1e3 * (time.perf_counter() - started)

    def one_round() -> Sample:
        ttft_ms, cold_ms = first_ms(prompts.short), first_ms(prompts.cold)
        warm_ms, long_ms = first_ms(prompts.warm, prompts.known), first_ms(prompts.long)
        token_ids = [contender.first(prompts.short)]
        started = time.perf_counter()
        while len(token_ids) < new_tokens:
            token_ids.append(contender.next(token_ids[-1]))
        decode_tokens_per_s = (new_tokens - 1) / (time.perf_counter() - started)
        return Sample(ttft_ms, cold_ms, warm_ms, 1e3 * len(prompts.long) / long_ms, decode_tokens_per_s, token_ids)

    return one_round


def distance_job(said: reference.Reference, name: str, path: Path, threads: int) -> Callable[[], reference.Distance]:
    """How far the contender is from the reference, once."""
    return lambda: reference.distance(said, name, path, threads)


def checked_job(said: reference.Reference, path: Path, threads: int) -> Callable[[], float]:
    """How far a bundle is from the reference where it checks guesses, once."""
    return lambda: reference.checked_kl(said, path, threads)


# --- the run --------------------------------------------------------------------------------------------


def make_paths(source: Path, wanted: Sequence[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """What each contender opens, made if it is not there; and why there is none, by contender."""
    makers: dict[str, Callable[[], Path]] = {
        "agent_int4": lambda: formats.bundle(source, "int4"),
        "llama_cpp_q4_0": lambda: formats.gguf(source, "Q4_0"),
        "genai_int4": lambda: formats.genai(source),
        "agent_int8": lambda: formats.bundle(source, "int8"),
        "llama_cpp_q8_0": lambda: formats.gguf(source, "Q8_0"),
        "pytorch_fp32": lambda: formats.checkpoint(source),
        "agent_minilm_int8": formats.encoder_bundle,
        "pytorch_minilm_fp32": lambda: fetch(formats.MODELS, ENCODER),
    }
    paths, reasons = {}, {}
    for name in wanted:
        try:
            paths[name] = makers[name]()
        except formats.Unavailable as reason:
            reasons[name] = str(reason)
    return paths, reasons


def make_prompts(tokenizer: Tokenizer, text: Sequence[int]) -> Prompts:
    """The prompts in the model's chat template; `text` is what the long one is cut from."""

    def behind_system(question: str) -> list[int]:
        said = (ChatMessage(role="system", content=SYSTEM_PROMPT), ChatMessage(role="user", content=question))
        return tokenizer.encode_question(Question(messages=said))

    cold, warm = behind_system(QUESTION), behind_system(OTHER_QUESTION)
    known = next(number for number, (one, other) in enumerate(zip(cold, warm, strict=False)) if one != other)
    short = tokenizer.encode_question(Question(question=QUESTION))
    return Prompts(short, cold, warm, known, list(text[:PREFILL_TOKENS]))


def measure_generators(
    paths: dict[str, Path], prompts: Prompts, options: argparse.Namespace
) -> tuple[dict[str, dict[str, Any]], float]:
    """By contender, each measure with its rounds; and the best bandwidth of all rounds, in bytes per second."""
    bandwidths: list[float] = []
    jobs = {
        name: partial(job, name, path, options.threads, prompts, options.new_tokens) for name, path in paths.items()
    }
    samples = interleaved(jobs, options.rounds, between=lambda: bandwidths.append(read_bandwidth(options.threads)))
    figures: dict[str, dict[str, Any]] = {
        name: {field: [getattr(one, field) for one in rounds] for field in Sample._fields}
        for name, rounds in samples.items()
    }
    return figures, max(bandwidths)


def measure_starts(paths: dict[str, Path], options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """By contender, each part of a start with its rounds, after one that fills the page cache."""
    starts: dict[str, list[Any]] = {name: [] for name in paths}
    for done in range(options.rounds + 1):
        for name, path in paths.items():
            starts[name].append(measure(name, path, options.threads))
        note(f"starts: {done} of {options.rounds}")
    return {
        name: {field: [getattr(one, field) for one in rounds[1:]] for field in rounds[0]._fields}
        for name, rounds in starts.items()
    }


def floor_ms(bundle: Path, bandwidth: float, prompts: Prompts, new_tokens: int) -> float:
    """The least milliseconds of one token of a bundle: its weights, and keys and values up to half of the answer."""
    opened = open_bundle(bundle)
    graph = decoder_graph(opened)
    assert graph.cache is not None
    read_bytes = read_onnx(opened.file(graph.path)).bytes_per_token
    read_bytes += cache_bytes(graph.cache, len(prompts.short) + new_tokens // 2)
    return 1e3 * read_bytes / bandwidth


def measure_encoders(paths: dict[str, Path], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """By encoder, its milliseconds in each round, and the cosine of its vector with the last one's, PyTorch's."""
    jobs = {name: partial(encoders.job, encoders.ENCODERS[name], path, options.threads) for name, path in paths.items()}
    samples = interleaved(jobs, options.rounds)
    vectors = [rounds[0].vector for rounds in samples.values()]
    return {
        name: {
            "p50_ms": [one.p50_ms for one in rounds],
            "cosine": sum(a * b for a, b in zip(rounds[0].vector, vectors[-1], strict=True)),
        }
        for name, rounds in samples.items()
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Make what is missing, then measure: starts, rounds, many at once, accuracy, encoders."""
    source = fetch(formats.MODELS)
    wanted = options.only or [*CONTENDERS, *encoders.ENCODERS]
    paths, unavailable = make_paths(source, wanted)
    generators = {name: paths[name] for name in CONTENDERS if name in paths}
    sentences = {name: paths[name] for name in encoders.ENCODERS if name in paths}
    figures: dict[str, dict[str, Any]] = {name: {} for name in paths}
    document: dict[str, Any] = {"unavailable": unavailable}
    if generators:
        document |= measure_text(source, generators, figures, options)
    for name, measured in measure_encoders(sentences, options).items():
        figures[name] |= measured
    for name, path in paths.items():
        figures[name]["weights_bytes"] = formats.size_bytes(path)
    return document | {"figures": figures}


def measure_text(
    source: Path, paths: dict[str, Path], figures: dict[str, dict[str, Any]], options: argparse.Namespace
) -> dict[str, Any]:
    """All of the contenders that write text, into `figures`; what is told beside them."""
    said = reference.open_reference(formats.reference_text(source))
    tokenizer = open_tokenizer(open_bundle(formats.bundle(source, "int4")))
    prompts = make_prompts(tokenizer, said.rows.reshape(-1).tolist())
    for name, starts in measure_starts(paths, options).items():
        figures[name] |= starts
    measured, bandwidth = measure_generators(paths, prompts, options)
    bundles = {name: path for name, path in paths.items() if name.startswith("agent_")}
    many = interleaved(
        {name: partial(together.job, path, options.threads, options.new_tokens) for name, path in bundles.items()},
        options.rounds,
    )
    for name, path in paths.items():
        figures[name] |= measured[name]
        figures[name]["answer"] = first_sentence(tokenizer.decode(figures[name].pop("token_ids")[0]))
        if name in bundles:
            figures[name] |= {field: [getattr(one, field) for one in many[name]] for field in together.Together._fields}
            floor = floor_ms(path, bandwidth, prompts, options.new_tokens)
            figures[name]["roofline_fraction"] = [
                1e-3 * floor * speed for speed in figures[name]["decode_tokens_per_s"]
            ]
            figures[name]["checked_kl"] = alone(
                f"KL of guesses of {name}", partial(checked_job, said, path, options.threads)
            )
        if name != "pytorch_fp32":  # which is the reference
            figures[name] |= alone(f"KL of {name}", partial(distance_job, said, name, path, options.threads))._asdict()
    return {
        "prompt_tokens": {field: len(ids) for field, ids in prompts._asdict().items() if field != "known"},
        "known_tokens": prompts.known,
        "bandwidth_bytes_per_s": bandwidth,
    }


# --- what is printed ------------------------------------------------------------------------------------


def first_sentence(text: str) -> str:
    """What a reader needs to see that a contender answers, and does not just produce tokens."""
    return repr(text.partition(".")[0][:60])


def machine(threads: int) -> dict[str, Any]:
    """The machine and the versions, as far as the system tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else "unknown processor",
        "system": platform.platform(),
        "python": platform.python_version(),
        "threads": threads,
        "versions": {name: version(name) for name in PACKAGES},
    }


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--only", action="append", choices=[*CONTENDERS, *encoders.ENCODERS])
    options = parser.parse_args()

    document = {"machine": machine(options.threads), "rounds": options.rounds, **run(options)}
    rows = judge(document["figures"])
    print("\n".join([*table(document), "", *goal_lines(rows), ""]))
    print(json.dumps(document | {"goals": [row._asdict() for row in rows]}))


if __name__ == "__main__":
    main()
