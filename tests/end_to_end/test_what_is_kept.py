"""What the real model computes from keys and values that were kept is what it computes from the whole prompt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edge_agent.runtime.batch import Batch, Generated
from edge_agent.runtime.engine import Engine, open_engine
from edge_agent.runtime.prefix_cache import PrefixCache
from edge_agent.runtime.run_cost import RunCost
from edge_agent.runtime.sampling import Logits, greedy
from edge_agent.runtime.step_cost import StepCost
from hub import wire

pytestmark = [pytest.mark.model, pytest.mark.slow]

SYSTEM = (
    "You are the guide of a small museum of natural history. Answer briefly, in whole sentences, for children. " * 4
)
COST = StepCost(fixed_ms=1e9, prefill_ms_per_token=1.0, decode_ms_per_token=1.0)  # no guess is worth a check


@pytest.fixture(params=["bundle", "int8_bundle"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    path: Path = request.getfixturevalue(request.param)
    with closing(open_engine(path, threads=2, parallel=2)) as opened:
        yield opened


def ids_of(engine: Engine, *turns: str) -> list[int]:
    roles = ("system", *("user", "assistant") * len(turns))
    messages = tuple(wire.ChatMessage(role=role, content=turn) for role, turn in zip(roles, turns, strict=False))  # type: ignore[arg-type]
    return engine.tokenizer.encode_question(wire.Question(messages=messages))


def answered(batch: Batch, ids: list[int], max_tokens: int = 1) -> tuple[Generated, list[Logits]]:
    """An answer, and a copy of the logits behind each of its tokens."""
    seen: list[Logits] = []

    def choose(logits: Logits) -> int:
        seen.append(logits.copy())
        return greedy(logits)

    answer = Generated(ids, choose=choose, max_tokens=max_tokens, stop_ids=())
    batch.add(answer)
    while not batch.idle:
        batch.advance()
    return answer, seen


def test_a_known_system_prompt_gives_the_same_logits(engine: Engine) -> None:
    """Within 1e-4, in fp32 and quantized; nearly all of the prompt is known the second time."""
    kept = Batch(engine.decoder, PrefixCache(100_000_000), RunCost(COST))
    answered(kept, ids_of(engine, SYSTEM, "What is a fossil?"))
    ids = ids_of(engine, SYSTEM, "How old is the Earth, and how do we know?")
    answer, [reused] = answered(kept, ids)
    assert answer.cached > 60
    _, [whole] = answered(Batch(engine.decoder, PrefixCache(0), RunCost(COST)), ids)
    assert np.abs(reused - whole).max() < 1e-4


@pytest.mark.parametrize("engine", ["bundle"], indirect=True)
def test_known_turns_give_the_same_logits_in_fp32(engine: Engine) -> None:
    """What was decoded token by token is kept, too; quantized graphs round those otherwise than a prompt's."""
    kept = Batch(engine.decoder, PrefixCache(100_000_000), RunCost(COST))
    first = ids_of(engine, SYSTEM, "What is a fossil?")
    said, _ = answered(kept, first, max_tokens=20)
    ids = [*first, *said.tokens, *ids_of(engine, SYSTEM, "Why?")[-12:]]
    answer, [reused] = answered(kept, ids)
    assert answer.cached >= len(first) + 15
    _, [whole] = answered(Batch(engine.decoder, PrefixCache(0), RunCost(COST)), ids)
    assert np.abs(reused - whole).max() < 1e-4
