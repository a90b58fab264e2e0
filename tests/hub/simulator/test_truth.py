"""What only an oracle knows."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from hub.simulator.fleet_file import Kind
from hub.simulator.trace import Trace
from hub.simulator.truth import Truth

TRACE = Trace(np.ones(2), np.array([100, 10]), np.array([10, 1]))
FAST = Kind(name="fast", count=1, fixed_ms=0, prefill_ms_per_token=1, decode_ms_per_token=10)
WIDE = Kind(name="wide", count=1, fixed_ms=100, prefill_ms_per_token=1, decode_ms_per_token=10, parallel=2)


def truth(luck: float = 0.0) -> Truth:
    return Truth([FAST, WIDE], np.array([20.0, 40.0]), TRACE, np.array([luck, luck]))


def test_an_idle_fleet_costs_the_way_and_the_work() -> None:
    """Question by question, node by node."""
    assert truth().delays_ms(0, 0.0).tolist() == [20 + 200, 40 + 300]
    assert truth().delays_ms(1, 0.0).tolist() == [20 + 20, 40 + 120]
    assert truth().mean_service_ms().tolist() == pytest.approx([110, 210])


def test_what_was_sent_is_waited_for() -> None:
    """A full node until its first slot is free, less what passes on the way."""
    one = truth()
    one.sent(0, 0, 0.0)
    one.sent(0, 1, 0.0)
    first, second = one.delays_ms(1, 0.0)
    assert first == pytest.approx(20 + (210 - 10) + 20)
    assert second == pytest.approx(40 + 120)
    one.sent(0, 1, 0.0)
    assert one.delays_ms(1, 0.0)[1] == pytest.approx(40 + (320 - 20) + 120)


def test_a_narrow_link_takes_time_for_every_byte() -> None:
    """400 bytes at 0.1 Mbit/s are 32 ms more on the way there, in which a queue gets shorter."""
    narrow = msgspec.structs.replace(FAST, upload_mbit_s=0.1)
    one = Truth([narrow], np.array([20.0]), TRACE, np.zeros(2))
    assert one.upload_of_ms(0, 0) == pytest.approx(32.0)
    assert one.delays_ms(0, 0.0) == pytest.approx([20 + 32 + 200])
    one.sent(0, 0, 0.0)
    assert one.delays_ms(0, 0.0) == pytest.approx([10 + 32 + 200 + 200 + 10])


def test_slow_and_dead_nodes() -> None:
    """Throttling multiplies, death is for ever."""
    one = truth()
    one.slower[0] = 3.0
    one.up[1] = False
    assert one.delays_ms(1, 0.0).tolist() == [20 + 60, np.inf]
