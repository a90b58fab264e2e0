"""Memory is held against the device before any work."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

import device_profiles
from exporter.errors import OrderError
from exporter.foresight import budget, refuse_too_large
from exporter.order import Order

ORDER = Order(model="m", profile="p", output=Path("o"), engine="none")
NANO = device_profiles.profile.load("jetson-orin-nano-4gb")


def source(billions: float) -> Any:
    """A checkpoint of that many parameters, with a cache of 64 kB a position."""
    config = SimpleNamespace(num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, hidden_size=2048)
    info = SimpleNamespace(name="big", parameters=int(billions * 1e9))
    return SimpleNamespace(model=SimpleNamespace(config=config), info=info, task="text-generation")


def test_what_does_not_fit_in_any_precision_is_refused_with_the_arithmetic() -> None:
    """Weights and cache at the asked context, against the device's memory; the parts add up."""
    with pytest.raises(OrderError) as refused:
        refuse_too_large(ORDER, NANO, source(8), 4096)
    said = str(refused.value)
    assert "big does not fit in int4: 5125 MB of weights + 269 MB of cache for 4096 positions = 5394 MB" in said
    assert "jetson-orin-nano-4gb has 4294 MB" in said


def test_an_engine_is_built_beside_the_graph_that_serves() -> None:
    """A Jetson that builds its own engine needs about four times the weights more."""
    plain, building = (
        budget(msgspec.structs.replace(ORDER, engine=engine), NANO, source(1), 1024, "int4")
        for engine in ("none", "auto")
    )
    assert building.need_bytes == plain.need_bytes + 4 * plain.weights_bytes
    refuse_too_large(ORDER, NANO, source(1), 1024)
    with pytest.raises(OrderError, match="to build the engine"):
        refuse_too_large(msgspec.structs.replace(ORDER, engine="auto"), NANO, source(2), 1024)


def test_what_will_be_pruned_is_not_judged_by_its_size_of_before() -> None:
    """By how much pruning shrinks a model is known afterwards only: what is refused whole is let through."""
    with pytest.raises(OrderError, match="does not fit"):
        refuse_too_large(ORDER, NANO, source(8), 4096)
    refuse_too_large(msgspec.structs.replace(ORDER, prune=("layers:0.5",)), NANO, source(8), 4096)
