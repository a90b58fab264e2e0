"""What a graph must hold to become the bundle."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

import device_profiles
from edge_agent.bench import Cost
from edge_agent.manifest import Accuracy
from exporter import judge as judging
from exporter.candidate import Built
from exporter.judge import Judge, accepted
from exporter.order import Order
from tests.exporter.conftest import Exported
from tests.exporter.test_candidate import COST
from tests.exporter.test_report import ACCURACY

ORDER = Order(model="m", profile="desktop-cpu", output=Path("o"), engine="none")


class Work:
    """Graphs that are as truthful and as fast as the test says."""

    def __init__(self, accuracy: Accuracy = ACCURACY) -> None:
        self.accuracy, self.verified = accuracy, 0

    def verify(self, built: Built) -> Accuracy:
        self.verified += 1
        return self.accuracy

    def measure(self, built: Built) -> Cost:
        return COST


@pytest.fixture
def built(tiny_llama: Exported) -> Built:
    directory = tiny_llama.path.parent.parent
    return Built(name="fp32", precision="fp32", directory=directory, graph=tiny_llama.graph, weights_bytes=10**9,
                 tensors={}, passes=())  # fmt: skip


def judge(work: Work, *, profile: str = "desktop-cpu", **changes: Any) -> Judge:
    order = msgspec.structs.replace(ORDER, profile=profile, **changes)
    return Judge(order, device_profiles.profile.load(profile), work, 64)


def test_what_is_inside_the_budget_is_accepted_and_run_once(built: Built) -> None:
    """The verdict says by how much; the same graph under another name is not run again."""
    work = Work()
    ask = judge(work)
    first, again = ask(built), ask(msgspec.structs.replace(built, name="again"))
    assert first.accepted
    assert first.reason == "drop of at most 0.90 points inside 1"
    assert (again.name, again.accuracy, work.verified) == ("again", ACCURACY, 1)
    assert "2 threads" in ask.where
    assert first.estimate is None


def test_a_second_measurement_only_ever_makes_it_faster(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise adds time: of two measurements the better one stands, whichever came first."""
    work = Work()
    ask = judge(work)
    first = ask(built)
    slower, faster = (msgspec.structs.replace(COST, decode_ms_per_token=value) for value in (11.0, 9.0))
    monkeypatch.setattr(work, "measure", lambda built: slower)
    ask.again(built)
    assert ask(built) == first
    monkeypatch.setattr(work, "measure", lambda built: faster)
    ask.again(built)
    assert ask(built).cost == faster


def test_the_bound_counts_not_the_mean(built: Built) -> None:
    """A drop inside the budget whose interval reaches beyond it is refused; so is one that is not a number."""
    for bound in (1.1, math.nan):
        far = msgspec.structs.replace(ACCURACY, drop_bound_points=bound)
        assert not accepted(far)
        assert not judge(Work(far))(built).accepted


def test_numbers_that_are_none_are_refused_whatever_the_drop(built: Built) -> None:
    """A graph that overflows here and there may keep its accuracy on paper."""
    for figure in ("kl", "perplexity"):
        verdict = judge(Work(msgspec.structs.replace(ACCURACY, **{figure: math.nan})))(built)
        assert not verdict.accepted
        assert verdict.reason == "it gives numbers that are not finite"


def test_a_gain_beyond_chance_is_flagged(built: Built) -> None:
    """It is accepted, and called an anomaly."""
    gain = msgspec.structs.replace(ACCURACY, drop_points=-3.0, drop_low_points=-4.0, drop_bound_points=-2.0)
    verdict = judge(Work(gain))(built)
    assert verdict.accepted
    assert "ANOMALY: better than the reference by 3.00 points" in verdict.reason


def test_what_is_too_slow_or_too_large_is_refused_with_the_figures(built: Built) -> None:
    """Each reason is told, all of them."""
    slow = judge(Work(), target_latency_ms=100.0)(built)
    assert not slow.accepted
    assert "measured 989 ms an answer exceed 100" in slow.reason
    large = judge(Work(), profile="jetson-orin-nano-4gb")(msgspec.structs.replace(built, weights_bytes=5 * 10**9))
    assert "5000 MB of weights" in large.reason


def test_another_device_is_estimated_from_its_bandwidth(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the bandwidth halves what reading costs; the measurement stays beside it."""
    profile = device_profiles.profile.load("desktop-rtx-4060")
    assert profile.memory_bandwidth_gb_per_s is not None
    monkeypatch.setattr(judging, "read_bandwidth", lambda threads: profile.memory_bandwidth_gb_per_s * 1e9 / 2)
    verdict = judge(Work(), profile="desktop-rtx-4060")(built)
    assert verdict.estimate is not None
    assert verdict.cost == COST
    assert verdict.estimate.decode_ms_per_token == pytest.approx(COST.decode_ms_per_token / 2)
    assert verdict.latency_ms < 600
