"""Decode speed and time to first token: an int4 bundle against llama.cpp and PyTorch fp32, on the same weights.

    python benchmarks/bench_decode.py [--threads N] [--rounds 7] [--new-tokens 96]

All three start from one GGUF file and get the same token ids: the 37 of "What is the capital of France?" in the
model's chat template. Each lives in a process of its own, so that none waits for another's threads or memory;
one works at a time, in interleaved rounds, after a warm-up, each round from an empty cache, greedily, without
stopping at a stop token. Each is driven by the shortest loop that its library has: llama.cpp through its C
functions, with its defaults and the same number of threads for prompt and decoding. Ratios are medians over the
rounds. The start of each answer is shown, because speed without it says nothing. Prints a table, then one line
of JSON. Only a machine with nothing else to do gives ratios that mean something: threads that wait for each other
lose more than their share of a busy core.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple, Protocol

from model import fetch

ROOT: Final = Path(__file__).resolve().parent.parent
BUNDLE: Final = ROOT / "bundles" / "bench-int4"
QUESTION: Final = "What is the capital of France?"
CONTEXT: Final = 512  # positions, the same for all
GOALS: Final = {  # of the ratios below; the time to first token must not exceed its goal
    "decode_over_llama_cpp": 1.3,
    "decode_over_pytorch_fp32": 3.0,
    "ttft_over_llama_cpp": 0.5,
}


class Contender(Protocol):
    """Whatever can continue a prompt, one greedy token at a time."""

    def first(self, ids: Sequence[int]) -> int:
        """The token after `ids`, from an empty cache."""
        ...

    def next(self, token_id: int) -> int:
        """The token after everything so far and `token_id`."""
        ...


class Sample(NamedTuple):
    """One round of one contender."""

    ttft_ms: float
    decode_tokens_per_s: float
    token_ids: list[int]


# --- the contenders -------------------------------------------------------------------------------------


class BundleContender:
    """The bundle, in the runtime that the agent serves it with."""

    def __init__(self, model: Path, threads: int) -> None:
        from edge_agent.bundle import open_bundle
        from edge_agent.runtime.decoder import Decoder
        from edge_agent.runtime.sampling import greedy

        graph = next(graph for graph in open_bundle(BUNDLE).manifest.graphs if graph.dialect == "ort")
        self._decoder = Decoder(BUNDLE / graph.path, graph, context=CONTEXT, threads=threads)
        self._greedy = greedy

    def first(self, ids: Sequence[int]) -> int:
        return self._greedy(self._decoder.prefill(ids))

    def next(self, token_id: int) -> int:
        return self._greedy(self._decoder.step(token_id))


class LlamaCppContender:
    """llama.cpp on the GGUF file, by its C functions, with its own greedy sampler."""

    def __init__(self, model: Path, threads: int) -> None:
        import llama_cpp

        self._library = llama_cpp
        self._llama = llama_cpp.Llama(
            str(model), n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, logits_all=False, verbose=False
        )
        self._sampler = llama_cpp.llama_sampler_init_greedy()

    def first(self, ids: Sequence[int]) -> int:
        self._library.llama_memory_clear(self._library.llama_get_memory(self._llama.ctx), True)
        return self._decode((self._library.llama_token * len(ids))(*ids), len(ids))

    def next(self, token_id: int) -> int:
        return self._decode((self._library.llama_token * 1)(token_id), 1)

    def _decode(self, tokens: Any, count: int) -> int:
        status = self._library.llama_decode(self._llama.ctx, self._library.llama_batch_get_one(tokens, count))
        if status != 0:
            raise SystemExit(f"llama_decode failed with status {status}")
        return int(self._library.llama_sampler_sample(self._sampler, self._llama.ctx, -1))


class PyTorchContender:
    """transformers in fp32, de-quantized from the same GGUF file."""

    def __init__(self, model: Path, threads: int) -> None:
        import torch
        from transformers import DynamicCache

        from exporter.source import open_source

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self._torch, self._new_cache = torch, DynamicCache
        self._model = open_source(str(model)).model
        self._cache = DynamicCache()

    def first(self, ids: Sequence[int]) -> int:
        self._cache = self._new_cache()
        return self._forward(ids)

    def next(self, token_id: int) -> int:
        return self._forward([token_id])

    def _forward(self, ids: Sequence[int]) -> int:
        row = self._torch.tensor([list(ids)])
        output = self._model(row, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        return int(output.logits[0, -1].argmax())


CONTENDERS: Final[dict[str, Callable[[Path, int], Contender]]] = {
    "bundle_int4": BundleContender,
    "llama_cpp": LlamaCppContender,
    "pytorch_fp32": PyTorchContender,
}


# --- measuring ------------------------------------------------------------------------------------------


def one_round(contender: Contender, ids: Sequence[int], new_tokens: int) -> Sample:
    """Answer once to the first token, once in full."""
    started = time.perf_counter()
    contender.first(ids)
    ttft_ms = 1e3 * (time.perf_counter() - started)

    token_ids = [contender.first(ids)]
    started = time.perf_counter()
    while len(token_ids) < new_tokens:
        token_ids.append(contender.next(token_ids[-1]))
    return Sample(ttft_ms, (new_tokens - 1) / (time.perf_counter() - started), token_ids)


def work(pipe: Connection, name: str, model: Path, threads: int, ids: Sequence[int], new_tokens: int) -> None:
    """The life of one contender's process: load, warm up, then one round for each order until nobody asks."""
    contender = CONTENDERS[name](model, threads)
    with suppress(EOFError):
        while True:
            pipe.send(one_round(contender, ids, new_tokens))
            pipe.recv()


def measure(model: Path, threads: int, ids: Sequence[int], new_tokens: int, rounds: int) -> dict[str, list[Sample]]:
    """`rounds` samples of each contender, interleaved."""
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as at_end:  # undone in reverse: the pipe is closed, which ends the process, which is awaited
        pipes: dict[str, Connection] = {}
        for name in CONTENDERS:
            pipes[name], theirs = spawn.Pipe()
            process = spawn.Process(target=work, args=(theirs, name, model, threads, ids, new_tokens))
            process.start()
            at_end.callback(process.join)
            at_end.callback(pipes[name].close)
            theirs.close()  # else a contender that dies would be waited for
            take(name, pipes[name])  # the warm-up
        samples: dict[str, list[Sample]] = {name: [] for name in CONTENDERS}
        for done in range(rounds):
            for name, pipe in pipes.items():
                pipe.send("again")
                samples[name].append(take(name, pipe))
            note(f"round {done + 1} of {rounds}")
    return samples


def take(name: str, pipe: Connection) -> Sample:
    """The next sample that a contender sends."""
    try:
        return Sample(*pipe.recv())
    except EOFError:
        raise SystemExit(f"{name} has died; its last words are above") from None


def ratios(samples: dict[str, list[Sample]]) -> dict[str, float]:
    """The median over the rounds of ours over theirs."""

    def over(peer: str, field: str) -> float:
        pairs = zip(samples["bundle_int4"], samples[peer], strict=True)
        return float(median(getattr(ours, field) / getattr(theirs, field) for ours, theirs in pairs))

    return {
        "decode_over_llama_cpp": over("llama_cpp", "decode_tokens_per_s"),
        "decode_over_pytorch_fp32": over("pytorch_fp32", "decode_tokens_per_s"),
        "ttft_over_llama_cpp": over("llama_cpp", "ttft_ms"),
    }


# --- before and after -----------------------------------------------------------------------------------


def note(text: str) -> None:
    """Progress, where somebody watches."""
    if sys.stderr.isatty():
        print(f"bench_decode: {text}", file=sys.stderr)


def machine() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown processor")


def first_sentence(text: str) -> str:
    """What a reader needs to see that a contender answers, and does not just produce tokens."""
    return text.partition(".")[0][:60]


def make_bundle(model: Path) -> None:
    """Export the int4 bundle unless it is there. Its accuracy is no matter here: the speed of int4 is."""
    if BUNDLE.exists():
        return
    program = Path(sys.executable).parent / "edge-export"
    command = [str(program), "--model", str(model), "--profile", "desktop-cpu", "--precision", "int4"]
    command += ["--quantizer", "round-to-nearest"]
    command += ["--max-accuracy-drop", "100", "--output", str(BUNDLE)]
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode != 0:
        raise SystemExit("the int4 bundle could not be exported")


def report(document: dict[str, Any]) -> None:
    """The table, then the JSON line."""
    print(
        f"{document['machine']}, {document['threads']} threads, prompt of {document['prompt_tokens']} tokens, "
        f"{document['new_tokens']} new tokens, medians of {document['rounds']} interleaved rounds"
    )
    print(f"{'':14}{'decode':>14}{'first token':>14}  answer")
    for name, result in document["contenders"].items():
        speed, ttft = f"{result['decode_tokens_per_s']:.1f} tok/s", f"{result['ttft_ms']:.1f} ms"
        print(f"{name:14}{speed:>14}{ttft:>14}  {result['answer']!r}")
    for name, ratio in document["ratios"].items():
        limit = "at most" if name.startswith("ttft") else "at least"
        print(f"{name:28}{ratio:6.2f}  goal: {limit} {GOALS[name]}")
    print(json.dumps(document))


def main() -> None:
    """Export if needed, measure, print."""
    from edge_agent.bundle import open_bundle
    from edge_agent.runtime.session import default_threads
    from edge_agent.tokenizer import open_tokenizer
    from hub.wire import Question

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--new-tokens", type=int, default=96)
    options = parser.parse_args()

    model = fetch(ROOT / "models")
    make_bundle(model)
    tokenizer = open_tokenizer(open_bundle(BUNDLE))
    ids = tokenizer.encode_question(Question(question=QUESTION))
    samples = measure(model, options.threads, ids, options.new_tokens, options.rounds)
    contenders = {
        name: {
            "decode_tokens_per_s": round(median(sample.decode_tokens_per_s for sample in rounds), 2),
            "ttft_ms": round(median(sample.ttft_ms for sample in rounds), 2),
            "answer": first_sentence(tokenizer.decode(rounds[0].token_ids)),
        }
        for name, rounds in samples.items()
    }
    measured = {name: round(ratio, 3) for name, ratio in ratios(samples).items()}
    report(
        {
            "machine": machine(),
            "threads": options.threads,
            "prompt_tokens": len(ids),
            "new_tokens": options.new_tokens,
            "rounds": options.rounds,
            "contenders": contenders,
            "ratios": measured,
        }
    )


if __name__ == "__main__":
    main()
