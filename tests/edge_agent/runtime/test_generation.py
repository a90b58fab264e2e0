"""The values between whoever serves and whatever answers."""

from __future__ import annotations

import inspect

import pytest

from edge_agent.runtime.engine import Engine
from edge_agent.runtime.generation import Answerer, Generation, SingleAnswerer
from hub import wire


def test_the_engine_answers_like_any_answerer() -> None:
    """Engine and protocols agree on names, parameters and defaults."""
    assert inspect.signature(Engine.answer) == inspect.signature(SingleAnswerer.answer)
    for name in ("begin", "advance", "abandon", "tend"):
        assert list(inspect.signature(getattr(Engine, name)).parameters) == list(
            inspect.signature(getattr(Answerer, name)).parameters
        )
    assert isinstance(Engine.parallel, property)
    assert isinstance(Engine.served, property)


def test_a_generation_cannot_be_changed() -> None:
    """It is a value."""
    generation = Generation(
        text="", token_ids=(), finish="stop", tokens=wire.Tokens(), prefill_ms=0, decode_ms=0, compute_ms=0
    )
    with pytest.raises(AttributeError):
        generation.text = "other"  # type: ignore[misc]
