"""The quick measurement before a node shows itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.runtime import step_cost
from edge_agent.runtime.engine import open_engine


@pytest.mark.parametrize("context", [None, 64, 16])
def test_warm_up_prices_this_machine(tiny_bundle: Path, context: int | None) -> None:
    """After it the served cost is what was measured here, also where the context is small, and answers go on."""
    engine = open_engine(tiny_bundle, context=context)
    before = engine.served
    engine.warm_up()
    after = engine.served
    assert (after.fixed_ms, after.decode_ms_per_token) != (before.fixed_ms, before.decode_ms_per_token)
    assert after.decode_ms_per_token > 0
    assert after.fixed_ms >= 0
    assert after.prefill_ms_per_token >= 0
    assert engine.decoder.length == 0
    engine.close()


@pytest.mark.parametrize(("enough_s", "rounds"), [(0.0, 2), (1e9, step_cost.ROUNDS + 1)])
def test_a_slow_node_measures_fewer_rounds(
    enough_s: float, rounds: int, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One round to plan memory and one to count are always taken; more only while it does not take long."""
    monkeypatch.setattr(step_cost, "ENOUGH_S", enough_s)
    engine = open_engine(tiny_bundle)
    generate, answers = engine.decoder.generate, 0

    def counted(*args: Any, **options: Any) -> Iterator[int]:
        nonlocal answers
        answers += 1
        return generate(*args, **options)

    monkeypatch.setattr(engine.decoder, "generate", counted)
    assert step_cost.measure_steps(engine.decoder).decode_ms_per_token > 0
    assert answers == rounds * len(step_cost.PROMPT_TOKENS)
    engine.close()
