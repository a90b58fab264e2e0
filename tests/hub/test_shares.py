"""Room for one more question: rates, shares, limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.ledger import Limits
from hub.shares import Rate, Rates, Room, Shares
from tests.hub.core_driver import (
    Driver,
    failure,
    failures,
    records,
    works,
)


@pytest.mark.parametrize("text", ["", "0", "0.5/s", "-1", "5/d", "5 /s", "x", "1e3", "inf", "5/"])
def test_no_rate(text: str) -> None:
    """What is no rate is named, with what would be one."""
    with pytest.raises(ValueError, match=r"is no rate: write a number, at least 1.* such as 5/s or 30/m"):
        Rate.parse(text)


@pytest.mark.parametrize("text", ["5/s", "30/m", "1.5/h", "1000/s"])
def test_rate_is_said_as_it_was_given(text: str) -> None:
    """In messages."""
    assert str(Rate.parse(text)) == text


@given(st.integers(1, 50), st.sampled_from("smh"), st.lists(st.floats(0, 100), max_size=60))
def test_a_rate_is_kept_and_its_wait_is_exact(questions: int, unit: str, gaps_s: list[float]) -> None:
    """Never more than N at once and N in each period after that; whoever waits as told is let in, not much sooner."""
    rates = Rates(Rate.parse(f"{questions}/{unit}"), 5)
    now, taken = 1000.0, 0
    for gap_s in gaps_s:
        now += gap_s
        wait_ms = rates.take("d", now)
        if wait_ms == 0.0:
            taken += 1
            continue
        assert rates.take("d", now + 0.9 * wait_ms / 1000) > 0.0
        now += wait_ms / 1000
        assert rates.take("d", now) == 0.0
        taken += 1
    assert taken <= questions + (now - 1000.0) * questions / rates.rate.seconds + 1e-6


def test_devices_do_not_share_a_rate() -> None:
    """One device's flood is no other's, and only so many are remembered."""
    rates = Rates(Rate(1, 3600.0), 3)
    assert [rates.take("flood", 0.0) > 0 for _ in range(3)] == [False, True, True]
    for number in range(100):
        assert rates.take(f"d{number}", 0.0) == 0.0
    assert len(rates._buckets) == 3


@given(st.lists(st.sampled_from("abcdefgh"), max_size=300), st.integers(1, 64))
def test_a_newcomer_finds_room(asking: list[str], limit: int) -> None:
    """However many devices flood a hub of some size, one that has nothing in flight is let in."""
    shares = Shares(limit, 10**9)
    for device in asking:
        shares.add(device, 1)
        if shares.overfull or shares.exceeded_by(device):
            shares.remove(device, 1)
    if limit >= 32:  # eight shares, and a ninth
        shares.add("newcomer", 1)
        assert not shares.overfull
        assert not shares.exceeded_by("newcomer")


def test_shares_count_bytes_too() -> None:
    """A few large questions take as much as many small ones."""
    shares = Shares(1000, 100)
    for _ in range(8):
        shares.add("flood", 10)
    assert shares.exceeded_by("flood")


def test_room() -> None:
    """First the rate, then the limits, then the share; each says why and when to ask again."""

    def problem(room: Room, device: str) -> str:
        room.shares.add(device, 1)
        found = room.problem_with(device, 0, lambda: 700.0, 0.0)
        if found is not None:
            room.shares.remove(device, 1)
        return "" if found is None else f"{found.code} {found.retry_after_ms:g} {found.message}"

    rated = Room(10, 100, 5, device_rate=Rate(2, 1.0), fair_shares=False)
    assert [problem(rated, "d")[:14] for _ in range(3)] == ["", "", "overloaded 500"]
    full = Room(2, 100, 5, device_rate=None, fair_shares=False)
    assert [problem(full, "d")[:14] for _ in range(3)] == ["", "", "overloaded 700"]
    bound = Room(10, 100, 5, device_in_flight=2)
    said = [problem(bound, device) for device in ("flood", "flood", "flood", "kitchen")]
    assert said == [
        "", "", "overloaded 700 device flood has 2 questions in flight, the most for one device: ask again later", "",
    ]  # fmt: skip
    fair = Room(8, 100, 5, device_rate=None, fair_shares=True)
    said = [problem(fair, "flood") for _ in range(8)]
    assert said[:6] == [""] * 6
    assert "flood has more than its share" in said[7]
    assert problem(fair, "kitchen") == ""


# --- in the core ---------------------------------------------------------------------------------------


def test_device_rate() -> None:
    """Beyond its rate a device is told to the millisecond when to come again; others go on."""
    hub = Driver(device_rate=Rate(2, 1.0))
    hub.node("a")
    for number in range(2):
        assert works(hub.ask(id=str(number))) != []
    effects = hub.ask(id="3")
    problem = failure(effects)
    assert (problem.code, problem.retry_after_ms) == ("overloaded", 500.0)
    assert works(hub.ask(id="1", device="library")) != []
    hub.now += 0.499
    assert failures(hub.ask(id="4")) == ["overloaded"]
    hub.now += 0.001
    assert works(hub.ask(id="5")) != []


def test_a_device_has_a_bound_of_its_own() -> None:
    """What it has in flight beyond it is refused, until something of it ends; others go on."""
    hub = Driver(device_in_flight=1)
    hub.node("a")
    effects = hub.ask(id="1")
    assert failures(hub.ask(id="2")) == ["overloaded"]
    assert works(hub.ask(id="1", device="library")) != []
    hub.accept(effects)
    hub.done("a", id="1")
    assert works(hub.ask(id="3")) != []


def test_repeats_are_no_questions_to_the_rate() -> None:
    """Whoever repeats a question that is in flight pays for it once."""
    hub = Driver(device_rate=Rate(1, 1000.0))
    hub.node("a")
    effects = hub.ask(id="q")
    for _ in range(5):
        assert failures(hub.ask(id="q")) == []
    hub.accept(effects)
    assert len(records(hub.done("a"))) == 1


def test_a_flood_starves_nobody() -> None:
    """With fair shares the flooding device is refused while another one finds room; without, both are refused."""
    for fair in (True, False):
        hub = Driver(limits=Limits(in_flight=16), fair_shares=fair)
        hub.node("a")
        refused = sum(len(failures(hub.ask(id=str(number), device="flood"))) for number in range(50))
        assert refused == 50 - (12 if fair else 16)
        assert failures(hub.ask(id="q")) == ([] if fair else ["overloaded"])


def test_shares_end_with_their_questions() -> None:
    """When all have ended, nobody has anything in flight."""
    hub = Driver(limits=Limits(in_flight=16), fair_shares=True)
    hub.node("a")
    for number in range(20):
        hub.ask(id=str(number))
    for number in range(20):
        hub.done("a", id=str(number))
    assert hub.core.in_flight == len(hub.core._ledger.room.shares) == hub.core._ledger.room.shares.size_bytes == 0
