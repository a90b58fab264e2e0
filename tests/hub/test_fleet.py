"""What can happen to a node, and how long its queue is."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub import wire
from hub.fleet import (
    Load,
    Node,
    Standing,
    Waiting,
    announced,
    doubted,
    freed,
    given_up,
    judge,
    loaded,
    ponged,
    served_models,
    taught,
    told,
    wait_ms,
    waiting,
)
from hub.tail import Tail
from tests.hub.core_driver import BUNDLE, TIMING, TOKENS, bundle


def ready(epoch: int = 1, **changes: Any) -> wire.NodeState:
    return wire.NodeState(**{"epoch": epoch, "status": "ready", "bundles": (BUNDLE,), **changes})


OFFLINE = wire.NodeState(epoch=1, status="offline")


def node(**changes: Any) -> Node:
    """A ready node, 20 ms away, idle by its own account at second 0."""
    fresh = announced(None, "n", ready(**changes), 0.0, live=False)
    return ponged(fresh, wire.Backlog(), 20.0, 0.0)


def load(number: int, sent_s: float, work_ms: float = 100.0, **changes: Any) -> Load:
    """The work is all decoding, but for a thousandth."""
    values: dict[str, Any] = {"longest_ms": math.inf, "deadline_s": 1000.0, **changes}
    return Load(
        key=("d", str(number)),
        sent_s=sent_s,
        start_s=sent_s + 0.01,
        before_ms=work_ms / 1000,
        decode_ms=work_ms * 0.999,
        **values,
    )


def exact() -> Tail:
    """Where answers have always been as long as expected."""
    tail = Tail()
    for _ in range(20_000):
        tail.learn(1.0)
    return tail


EXACT = exact()


def wait(node: Node, now: float, tail: Tail = EXACT) -> float:
    return wait_ms(waiting(node), now, tail)


# --- standing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "state", "verdict", "standing"),
    [
        (None, ready(), "new", Standing.READY),
        (None, OFFLINE, "new", Standing.GONE),
        (None, ready(status="draining"), "new", Standing.DRAINING),
        (node(epoch=2), ready(1), "stale", None),
        (node(epoch=2), OFFLINE, "stale", None),
        (node(), ready(), "same", Standing.READY),
        (node(), ready(2), "restarted", Standing.READY),
        (node(), OFFLINE, "offline", Standing.LOST),
        (node(), wire.NodeState(epoch=5, status="offline"), "offline", Standing.LOST),
        (node(status="draining"), OFFLINE, "offline", Standing.GONE),
        (doubted(node()), ready(), "same", Standing.SUSPECT),
        (doubted(node()), ready(2), "restarted", Standing.READY),
        (doubted(node()), OFFLINE, "offline", Standing.LOST),
        (given_up(node()), ready(), "back", Standing.READY),
        (given_up(node()), OFFLINE, "offline", Standing.GONE),
    ],
)
def test_states(before: Node | None, state: wire.NodeState, verdict: str, standing: Standing | None) -> None:
    """Each state after each standing: what it means, and what the node is then."""
    assert judge(before, state) == verdict
    if standing is not None:
        after = announced(before, "n", state, 1.0, live=True)
        assert (after.standing, after.epoch) == (standing, state.epoch)


def test_what_it_says_of_a_rollout_is_kept() -> None:
    """Also while it is offline, when its will says nothing of that."""
    said = wire.Deployment(epoch=3, rollout="r", bundle="b", version=2, phase="trial")
    state = msgspec.structs.replace(ready(), deployment=said, deploys=True, profile="orin")
    first = announced(node(), "n", state, 1.0, live=True)
    for after in (first, announced(first, "n", OFFLINE, 2.0, live=True)):
        assert (after.deployment, after.deploys, after.profile) == (said, True, "orin")
    assert announced(first, "n", ready(), 2.0, live=True).deployment is None


def test_pong_heals() -> None:
    """A suspect or lost node that answers is ready; a draining one goes on draining."""
    for before, after in (
        (doubted(node()), Standing.READY),
        (announced(node(), "n", OFFLINE, 1.0, live=True), Standing.READY),
        (node(status="draining"), Standing.DRAINING),
    ):
        assert ponged(before, wire.Backlog(), 5.0, 1.01).standing == after


def test_only_ready_nodes_become_suspect() -> None:
    """Doubting a draining node does not make it a candidate of last resort."""
    assert doubted(node(status="draining")).standing == Standing.DRAINING


def test_restart_forgets_work_and_keeps_what_was_learned() -> None:
    """The machine has not moved or changed: distance and costs stay while the bundle's figures do."""
    before = taught(loaded(node(), load(1, 0.0)), BUNDLE.bundle, TOKENS, TIMING)
    after = announced(before, "n", ready(2), 1.0, live=True)
    assert (after.load, after.network_ms, after.costs) == ((), 20.0, before.costs)
    reseeded = announced(before, "n", ready(3, bundles=(bundle(fixed_ms=9.0),)), 1.0, live=True)
    assert reseeded.costs[0].fixed_ms == 9.0


def test_retained_backlog_is_old_news() -> None:
    """The backlog in a retained state was said at any time: only a live one counts."""
    state = ready(backlog=wire.Backlog(questions=2, ms=500))
    assert wait(announced(None, "n", state, 0.0, live=False), 0.0) == 0
    assert wait(announced(None, "n", state, 0.0, live=True), 0.0) == 500


# --- the queue ------------------------------------------------------------------------------------------


def test_idle_node_has_no_wait() -> None:
    """Nothing sent, nothing reported."""
    assert wait(node(), 5.0) == 0


def test_wait_drains() -> None:
    """A question of 100 ms that arrives after 10 ms: free at 110."""
    busy = loaded(node(), load(1, 0.0))
    assert [wait(busy, at) for at in (0.0, 0.05, 0.11)] == pytest.approx([110, 60, 0], abs=6)


def test_queue_behind_the_running_one() -> None:
    """Queued questions wait in full until the one before them is done."""
    busy = loaded(loaded(node(), load(1, 0.0)), load(2, 0.0))
    assert wait(busy, 0.05) == pytest.approx(160, abs=6)
    second = freed(busy, ("d", "1"), 0.12)
    assert wait(second, 0.12) == pytest.approx(90, abs=6)  # it began when Done left, 10 ms ago


def test_late_question_stays_late_where_answers_have_tails() -> None:
    """What is left of an answer that has run for long is what such answers had left, up to its last possible end."""
    tail = Tail()
    for ratio in (0.5, 0.5, 0.5, 4.0) * 2000:
        tail.learn(ratio)
    late = loaded(node(), load(1, 0.0))
    assert wait(late, 0.21, tail) == pytest.approx(200, rel=0.1)  # 100 ms expected, 200 have passed, of 400
    capped = loaded(node(), load(1, 0.0, longest_ms=300.0))
    assert wait(capped, 0.21, tail) == pytest.approx(100, abs=1)
    expiring = loaded(node(), load(1, 0.0, deadline_s=0.25))
    assert wait(expiring, 0.21, tail) == pytest.approx(40, abs=1)


def test_work_of_others_counts() -> None:
    """What the node reports covers questions that this hub never saw, drained since; our own come on top."""
    told_busy = told(node(), wire.Backlog(questions=3, ms=1000), 1.0)
    assert wait(told_busy, 1.0) == pytest.approx(990)  # the news travelled 10 ms
    assert wait(told_busy, 1.49) == pytest.approx(500)
    assert wait(loaded(told_busy, load(1, 1.48)), 1.49) == pytest.approx(600, abs=6)


def test_what_we_sent_is_not_taken_for_others() -> None:
    """A report that covers what we sent, or may cover it, adds nothing; what is beyond it counts by its share."""
    ours = loaded(node(), load(1, 0.0))
    assert wait(told(ours, wire.Backlog(questions=1, ms=900), 0.04), 0.04) == pytest.approx(70, abs=6)
    mixed = told(ours, wire.Backlog(questions=3, ms=900), 0.04)
    assert wait(mixed, 0.04) == pytest.approx(70 + 590, abs=6)
    ended = told(ours, wire.Backlog(questions=1, ms=300), 0.12, ended=("d", "1"))
    assert wait(freed(ended, ("d", "1"), 0.12), 0.12) == pytest.approx(290)


def test_parallel_node() -> None:
    """With two slots, one question leaves no wait; a third shares the slots with those before it."""
    two = node(parallel=2)
    one = loaded(two, load(1, 0.0))
    assert wait(one, 0.0) == 0
    full = loaded(one, load(2, 0.0))
    assert wait(full, 0.0) == pytest.approx(110, abs=6)
    queued = loaded(full, load(3, 0.0))
    assert wait(queued, 0.0) == pytest.approx(160, abs=6)
    assert queued.load[2].start_s == math.inf
    assert freed(queued, ("d", "1"), 0.2).load[1].start_s == pytest.approx(0.19)


def test_freeing_what_is_not_there() -> None:
    """A question that the node does not have changes nothing."""
    before = loaded(node(), load(1, 0.0))
    assert freed(before, ("d", "7"), 1.0) is before


@given(
    st.builds(
        Waiting,
        st.floats(0, 1e6),
        st.sampled_from([0.0, 1.0]),
        st.floats(0, 1e6),
        st.floats(0, 1e6),
        st.floats(1e-3, 1e6),
        st.floats(0, 1e6) | st.just(math.inf),
        st.floats(0, 1e6) | st.just(-math.inf),
    ),
    st.floats(0, 1e6),
)
def test_waits_are_never_negative(queue: Waiting, now: float) -> None:
    """Whatever the queue and whenever it is asked."""
    assert 0 <= wait_ms(queue, now, Tail()) < math.inf


def test_served_models_are_cut() -> None:
    """A message names at most eight models."""
    many = [announced(None, f"n{i}", ready(bundles=(bundle(model=f"m{i}"),)), 0.0, live=False) for i in range(20)]
    assert served_models(many).endswith("and 12 more")
    assert served_models([]) == "nothing"


def test_machine_is_as_it_was_told_last() -> None:
    """Also of a node that is gone meanwhile: its last temperature may say why."""
    hot, cool = wire.Machine(temperature_c=95.0), wire.Machine(temperature_c=40.0)
    fresh = announced(None, "n", ready(machine=cool), 0.0, live=False)
    later = announced(fresh, "n", ready(machine=hot), 1.0, live=True)
    assert (fresh.machine, later.machine) == (cool, hot)
    assert announced(later, "n", OFFLINE, 2.0, live=True).machine == hot
