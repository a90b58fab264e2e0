"""Whatever can continue a prompt: edgefleet's agent, llama.cpp, onnxruntime-genai and PyTorch, driven alike.

Each is driven by the shortest loop that its library has, gets token ids, and chooses greedily without stopping. The
agent goes through what serves its questions: prompts in chunks of bounded time, with a prefix cache. The others keep
the keys and values of a common beginning as their libraries offer it (llama.cpp as `Llama.generate` does). Knows
nothing of clocks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

CONTEXT: Final = 1024  # positions, the same for all
_MOST_NEW: Final = 256
_PREFIX_BYTES: Final = 2**28

Logits = NDArray[np.float32]


class Contender(Protocol):
    """A model, open, with one sequence in it."""

    def first(self, ids: Sequence[int], known: int = 0) -> int:
        """The token after `ids`. The first `known` of them are those of the last sequence and need not be computed
        again; with 0 nothing is known.
        """
        ...

    def next(self, token_id: int) -> int:
        """The token after everything so far and `token_id`."""
        ...

    def logits(self) -> Logits:
        """What the last choice was made from, (vocabulary,); valid until the next."""
        ...


class Agent:
    """A bundle, in what the agent serves it with."""

    def __init__(self, path: Path, threads: int) -> None:
        from edge_agent.runtime.engine import open_engine
        from edge_agent.runtime.run_cost import RunCost
        from edge_agent.runtime.step_cost import measure_steps

        self._engine = open_engine(path, context=CONTEXT, threads=threads)
        self._decoder = self._engine.decoder
        self._cost = RunCost(measure_steps(self._decoder))  # as a node does before it shows itself
        self._forget()

    def first(self, ids: Sequence[int], known: int = 0) -> int:
        from edge_agent.runtime.batch import Generated

        self._batch.clear()
        if known == 0:
            self._forget()
        answer = Generated(ids, choose=self._choose, max_tokens=_MOST_NEW, stop_ids=())
        self._batch.add(answer)
        while not answer.tokens:
            self._batch.advance()
        if answer.cached != known:
            raise SystemExit(f"the prefix cache held {answer.cached} tokens of a prompt, {known} were to be known")
        return answer.tokens[0]

    def next(self, token_id: int) -> int:
        return self._choose(self._decoder.step(token_id))

    def logits(self) -> Logits:
        return self._logits

    def _choose(self, logits: Logits) -> int:
        from edge_agent.runtime.sampling import greedy

        self._logits = logits
        return greedy(logits)

    def _forget(self) -> None:
        from edge_agent.runtime.batch import Batch
        from edge_agent.runtime.prefix_cache import PrefixCache

        self._batch = Batch(self._decoder, PrefixCache(_PREFIX_BYTES), self._cost)


class LlamaCpp:
    """A GGUF file in llama.cpp, by its C functions, with its own greedy sampler and its defaults."""

    def __init__(self, path: Path, threads: int) -> None:
        import llama_cpp

        self._library = llama_cpp
        self._llama = llama_cpp.Llama(
            str(path), n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, verbose=False
        )
        self._sampler = llama_cpp.llama_sampler_init_greedy()

    def first(self, ids: Sequence[int], known: int = 0) -> int:
        memory = self._library.llama_get_memory(self._llama.ctx)
        self._library.llama_memory_seq_rm(memory, -1, known, -1)
        return self._decode(ids[known:])

    def next(self, token_id: int) -> int:
        return self._decode((token_id,))

    def logits(self) -> Logits:
        pointer = self._library.llama_get_logits_ith(self._llama.ctx, -1)
        return np.ctypeslib.as_array(pointer, (self._llama.n_vocab(),))

    def _decode(self, ids: Sequence[int]) -> int:
        tokens = (self._library.llama_token * len(ids))(*ids)
        status = self._library.llama_decode(self._llama.ctx, self._library.llama_batch_get_one(tokens, len(ids)))
        if status != 0:
            raise SystemExit(f"llama_decode failed with status {status}")
        return int(self._library.llama_sampler_sample(self._sampler, self._llama.ctx, -1))


class GenAi:
    """A model of onnxruntime-genai's builder, in its generator."""

    def __init__(self, path: Path, threads: int) -> None:
        self._model, parameters = open_genai(path, threads)
        import onnxruntime_genai

        self._generator = onnxruntime_genai.Generator(self._model, parameters)

    def first(self, ids: Sequence[int], known: int = 0) -> int:
        self._generator.rewind_to(known)
        return self._append(ids[known:])

    def next(self, token_id: int) -> int:
        return self._append((token_id,))

    def logits(self) -> Logits:
        return self._logits

    def _append(self, ids: Sequence[int]) -> int:
        self._generator.append_tokens(np.asarray(ids, np.int32))
        self._logits: Logits = self._generator.get_logits()[0, -1]
        return int(self._logits.argmax())


def open_genai(path: Path, threads: int) -> tuple[Any, Any]:
    """Model and generator parameters, with as many threads."""
    import onnxruntime_genai

    config = onnxruntime_genai.Config(str(path))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = onnxruntime_genai.Model(config)
    parameters = onnxruntime_genai.GeneratorParams(model)
    parameters.set_search_options(max_length=CONTEXT, do_sample=False)
    return model, parameters


class PyTorch:
    """transformers in fp32."""

    def __init__(self, path: Path, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM, DynamicCache, logging

        logging.disable_progress_bar()
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self._torch, self._new_cache = torch, DynamicCache
        self._model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, local_files_only=True).eval()
        self._cache = DynamicCache()

    def first(self, ids: Sequence[int], known: int = 0) -> int:
        if known:
            self._cache.crop(known - self._cache.get_seq_length())  # negative: so many fewer
        else:
            self._cache = self._new_cache()
        return self._forward(ids[known:])

    def next(self, token_id: int) -> int:
        return self._forward((token_id,))

    def logits(self) -> Logits:
        logits: Logits = self._logits.numpy()
        return logits

    def _forward(self, ids: Sequence[int]) -> int:
        row = self._torch.tensor([list(ids)])
        output = self._model(row, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._logits = output.logits[0, -1]
        return int(self._logits.argmax())


CONTENDERS: Final[dict[str, Callable[[Path, int], Contender]]] = {
    "agent_int4": Agent,
    "llama_cpp_q4_0": LlamaCpp,
    "genai_int4": GenAi,
    "agent_int8": Agent,
    "llama_cpp_q8_0": LlamaCpp,
    "pytorch_fp32": PyTorch,
}
