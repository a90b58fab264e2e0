"""From the start of a process to the first token of an answer: what a user of the library waits for.

    python benchmarks/first_token.py NAME PATH THREADS

The process imports the library, opens the model, turns the question into tokens by the library's own chat template and
tokenizer, and says so the moment it has the first token; then it answers once more with 96 tokens, and prints one line
of JSON with its times and its peak memory. `measure` starts it and looks at the clock from outside. Each library is
used as its documentation shows, with its defaults but for the threads.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

QUESTION: Final = "What is the capital of France?"
ANSWER_TOKENS: Final = 96

Ask = Callable[[int], object]  # for so many tokens


class Started(NamedTuple):
    """One start. `start_ms` is the whole wait, the rest are its parts as the process itself saw them."""

    start_ms: float
    import_ms: float
    load_ms: float
    answer_ms: float
    peak_rss_bytes: int


def measure(name: str, path: Path, threads: int) -> Started:
    """Start the process and wait for its first token, then for its end."""
    command = [sys.executable, __file__, name, str(path), str(threads)]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        start_ms = 1e3 * (time.perf_counter() - started)
        told = process.stdout.readline()
    if process.returncode != 0:
        raise SystemExit(f"{name} could not answer; its last words are above")
    return Started(start_ms=start_ms, **json.loads(told))


# --- in the process -------------------------------------------------------------------------------------


def agent(path: str, threads: int, imported: Callable[[], None]) -> Ask:
    from edge_agent.runtime.engine import open_engine
    from hub.wire import Question

    imported()
    engine = open_engine(Path(path), threads=threads)

    def ask(tokens: int) -> object:
        question = Question(question=QUESTION, max_tokens=tokens, temperature=0.0)
        return engine.answer(question, should_stop=lambda: False)

    return ask


def llama_cpp(path: str, threads: int, imported: Callable[[], None]) -> Ask:
    from llama_cpp import Llama

    imported()
    llama = Llama(path, n_threads=threads, n_threads_batch=threads, verbose=False)
    messages: Any = [{"role": "user", "content": QUESTION}]
    return lambda tokens: llama.create_chat_completion(messages, max_tokens=tokens, temperature=0.0)


def genai(path: str, threads: int, imported: Callable[[], None]) -> Ask:
    import onnxruntime_genai
    from contenders import open_genai

    imported()
    model, parameters = open_genai(Path(path), threads)
    tokenizer = onnxruntime_genai.Tokenizer(model)

    def ask(tokens: int) -> object:
        messages = json.dumps([{"role": "user", "content": QUESTION}])
        generator = onnxruntime_genai.Generator(model, parameters)
        generator.append_tokens(
            tokenizer.encode(tokenizer.apply_chat_template(messages=messages, add_generation_prompt=True))
        )
        for _ in range(tokens):
            generator.generate_next_token()
            if generator.is_done():
                break
        return generator.get_next_tokens()

    return ask


def pytorch(path: str, threads: int, imported: Callable[[], None]) -> Ask:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    logging.disable_progress_bar()
    imported()
    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, local_files_only=True)

    def ask(tokens: int) -> object:
        messages = [{"role": "user", "content": QUESTION}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
        return model.generate(**prompt, max_new_tokens=tokens, do_sample=False)

    return ask


OPENERS: Final[dict[str, Callable[[str, int, Callable[[], None]], Ask]]] = {
    "agent": agent,
    "llama": llama_cpp,
    "genai": genai,
    "pytorch": pytorch,
}


def main(name: str, path: str, threads: int) -> None:
    """Open, answer with one token, say so; answer in full, tell the rest."""
    ticks = [time.perf_counter()]

    def tick() -> None:
        ticks.append(time.perf_counter())

    ask = OPENERS[name.partition("_")[0]](path, threads, tick)
    tick()
    ask(1)
    tick()
    print("first token", flush=True)
    ask(ANSWER_TOKENS)

    from edge_agent.bench import peak_rss_bytes  # not before: it imports what the agent is to be timed for

    import_ms, load_ms, answer_ms = (1e3 * (b - a) for a, b in itertools.pairwise(ticks))
    told = {"import_ms": import_ms, "load_ms": load_ms, "answer_ms": answer_ms, "peak_rss_bytes": peak_rss_bytes()}
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
