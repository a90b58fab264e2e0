"""What every decoder does alike, on the least that one has to bring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edge_agent.errors import ContextOverflow
from edge_agent.runtime.cache import Positions
from edge_agent.runtime.row_decoder import CHUNK_TOKENS, OneRowDecoder


class Counting(OneRowDecoder):
    """Its logits say which position they are of; `runs` what it was given."""

    runtime = "counting"
    vocabulary = 8
    logits_at_most = 3

    def __init__(self, context: int) -> None:
        self.cache = Positions(context, 1, 4)
        self.runs: list[tuple[int, int]] = []

    def _run(self, ids: Sequence[int], keep: Sequence[int]) -> Any:
        self.runs.append((len(ids), len(keep)))
        return np.array([[self.length + place] * self.vocabulary for place in keep], np.float32)

    def close(self) -> None:
        pass


def test_a_prompt_is_fed_in_chunks_and_a_check_in_what_logits_come_at_once() -> None:
    """Every position's logits are its own, in whatever runs they come."""
    decoder = Counting(1000)
    assert decoder.prefill([1] * 600)[0] == 599
    assert decoder.runs == [(300, 1), (300, 1)]
    assert decoder.check([1] * 7)[:, 0].tolist() == list(range(600, 607))
    assert decoder.runs[2:] == [(3, 3), (3, 3), (1, 1)]
    assert decoder.step(1)[0] == 607
    assert decoder.logits([1] * 5)[:, 0].tolist() == list(range(5))


def test_what_does_not_fit_changes_nothing() -> None:
    """Neither tokens beyond the context, nor more of them than one run takes, nor unknown ids."""
    decoder = Counting(600)
    decoder.prefill([1] * 590)
    with pytest.raises(ContextOverflow):
        decoder.extend([1] * 11)
    with pytest.raises(ValueError, match=f"at most {CHUNK_TOKENS}"):
        decoder.extend([1] * (CHUNK_TOKENS + 1))
    with pytest.raises(ValueError, match="token id 8 is outside"):
        decoder.step(8)
    assert decoder.length == 590
