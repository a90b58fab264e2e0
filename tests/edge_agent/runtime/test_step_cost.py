"""The quick measurement before a node shows itself."""

from __future__ import annotations

from pathlib import Path

import pytest

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
