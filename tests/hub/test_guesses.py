"""How often one may guess."""

from __future__ import annotations

import pytest

from hub.guesses import OF_ALL, OF_ONE, Guesses, TooManyGuesses


def wrong(guesses: Guesses, address: str, times: int = 1) -> None:
    for _ in range(times):
        assert not guesses.told(address, right=False, now_s=0.0)


def test_guesses_from_one_address_are_few() -> None:
    """Then the right one waits as well, for as long as it is told to; other addresses do not."""
    guesses = Guesses()
    wrong(guesses, "here", int(OF_ONE.questions))
    with pytest.raises(TooManyGuesses) as refused:
        guesses.told("here", right=True, now_s=0.0)
    assert guesses.told("there", right=True, now_s=0.0)
    assert guesses.told("here", right=True, now_s=refused.value.wait_s)


def test_guesses_from_many_addresses_are_bounded_together() -> None:
    """And keep out strangers, but nobody who had the right one before."""
    guesses = Guesses()
    assert guesses.told("prometheus", right=True, now_s=0.0)
    for number in range(int(OF_ALL.questions)):
        wrong(guesses, f"address {number}")
    with pytest.raises(TooManyGuesses):
        guesses.told("one more", right=True, now_s=0.0)
    assert guesses.told("prometheus", right=True, now_s=0.0)
    wrong(guesses, "prometheus", int(OF_ONE.questions))
    with pytest.raises(TooManyGuesses):
        guesses.told("prometheus", right=True, now_s=0.0)


def test_the_right_key_is_taken_however_often() -> None:
    """It is no guess."""
    guesses = Guesses()
    assert all(guesses.told("here", right=True, now_s=0.0) for _ in range(1000))
