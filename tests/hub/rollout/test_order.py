"""The files of a rollout as values: unknown keys and foreign names are refused."""

from __future__ import annotations

import msgspec
import pytest

from hub.errors import RolloutError
from hub.rollout.order import NodeProgress, Order, Progress, check_target, is_target, named_in
from tests.hub.rollout.scene import order


def test_files_forbid_what_they_do_not_know() -> None:
    """A file of a later version is not half read."""
    for value in (order(), Progress(nodes={"a": NodeProgress(wave=0)}), NodeProgress(wave=1)):
        whole = msgspec.to_builtins(value)
        assert msgspec.convert(whole, type(value)) == value
        with pytest.raises(msgspec.ValidationError, match="unknown field"):
            msgspec.convert({**whole, "more": 1}, type(value))


@pytest.mark.parametrize("bad", [{"name": "a/b"}, {"canary": 0.0}, {"to": []}, {"manifest": "x"}, {"bundle": "../up"}])
def test_an_order_that_cannot_be(bad: dict[str, object]) -> None:
    """Names, shares and hashes are checked where it is read."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**msgspec.to_builtins(order()), **bad}, Order)


def test_targets() -> None:
    """By name, by profile, or all; a node without a profile has none."""
    assert is_target("a", "", ("all",))
    assert is_target("a", "orin", ("b", "profile:orin"))
    assert is_target("a", "orin", ("a",))
    assert not is_target("a", "orin", ("b", "profile:thor"))
    assert not is_target("a", "", ("profile:x",))
    assert named_in(("all", "a", "profile:p")) == ["a"]


@pytest.mark.parametrize("text", ["", "profile:", "profile:a b", "a/b", "+"])
def test_targets_that_name_nobody(text: str) -> None:
    """They are refused at once, before anybody waits for them."""
    with pytest.raises(RolloutError, match="names nobody"):
        check_target(text)


def test_what_a_node_is_told() -> None:
    """All of the order that concerns it."""
    desired = order().desired(7, ("https://hub",), undo=True)
    assert (desired.epoch, desired.undo, desired.sources) == (7, True, ("https://hub",))
    assert (desired.rollout, desired.version, desired.trial.seconds) == ("r1", 2, 5.0)
