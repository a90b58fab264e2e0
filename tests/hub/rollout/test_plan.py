"""A rollout among nodes that follow it, fail, are away, or say nothing; and hubs that die on the way."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub import wire
from hub.rollout.order import NodeProgress, Progress
from hub.rollout.plan import REPEAT_S, Persist, PublishDesired, Rollout
from tests.hub.rollout.scene import BAD, GOOD, NEW, OLD, REFUSES, FakeNode, Scene, order, served

SLOW: tuple[wire.Phase, ...] = ("waiting", "waiting", "fetching", "fetching", *GOOD)
COURSES = st.sampled_from([GOOD, GOOD, GOOD, SLOW, BAD, REFUSES])
FLEETS = st.lists(st.tuples(COURSES, st.sampled_from(["orin", "desktop"])), min_size=1, max_size=12)


def fleet(courses: list[tuple[tuple[wire.Phase, ...], str]]) -> dict[str, FakeNode]:
    return {f"n{number}": FakeNode(course, profile) for number, (course, profile) in enumerate(courses)}


def test_a_good_bundle_comes_to_all_in_waves() -> None:
    """First one canary, then as many as have it, and at the end it is done."""
    scene = Scene({f"n{number}": FakeNode() for number in range(10)}).run(60)
    assert scene.status == "done"
    assert set(scene.stages().values()) == {"serving"}
    assert sorted(one.wave for one in scene.rollout.progress.nodes.values()) == [0, 1, 2, 2, 3, 3, 3, 3, 4, 4]
    assert [each.desired.undo for each in scene.told] == [False] * 10


def test_a_bad_canary_stops_it() -> None:
    """It went back by itself, so it is told nothing more; nobody else is told anything."""
    scene = Scene({f"n{number}": FakeNode(BAD) for number in range(5)}).run(60)
    assert (scene.status, len(scene.told)) == ("stopped", 1)
    assert "1 of 1 nodes failed, at most 2% may" in scene.rollout.progress.why
    assert "it is worse" in scene.rollout.progress.why


def test_who_has_switched_is_told_to_undo() -> None:
    """One of the second wave fails: those that serve the bundle, and those under way, go back, with later epochs."""
    nodes = {f"n{number}": FakeNode() for number in range(5)}
    scene = Scene(nodes)
    canary = next(each.node for each in scene.step() if isinstance(each, PublishDesired))
    for name, node in nodes.items():
        node.course = GOOD if name == canary else REFUSES
    scene.run(60)
    assert scene.status == "stopped"
    assert nodes[canary].bundles[0].bundle == OLD
    assert scene.stages()[canary] == "undone"
    undone = {each.node: each.desired.epoch for each in scene.told if each.desired.undo}
    assert undone[canary] == 2


def test_a_share_of_failures_may_be_allowed() -> None:
    """With half of the nodes allowed to fail, one of four does no harm."""
    nodes = {f"n{number}": FakeNode() for number in range(4)}
    nodes["n0"].course = BAD
    scene = Scene(nodes, max_failure=0.5, canary=0.5).run(60)
    assert (scene.status, sorted(scene.stages().values())) == ("done", ["failed", "serving", "serving", "serving"])


def test_who_is_away_holds_up_nobody() -> None:
    """The others get it; it is done without the one that is away, which gets it when it comes, and no other epoch."""
    nodes = {f"n{number}": FakeNode() for number in range(4)}
    nodes["n2"].there = False
    scene = Scene(nodes).run(60)
    assert (scene.status, scene.stages()["n2"]) == ("done", "waiting")
    assert scene.rollout.progress.why == "3 of 4 nodes serve it, 1 are waited for"
    nodes["n2"].there = True
    scene.run(20)
    assert scene.stages()["n2"] == "serving"


def test_a_closed_rollout_waits_for_nobody() -> None:
    """A later one of the same model has begun: who comes now is not told anything by this one."""
    nodes = {"n0": FakeNode(), "n1": FakeNode(there=False)}
    scene = Scene(nodes).run(30)
    scene.rollout.closed = True
    nodes["n1"].there = True
    scene.run(30)
    assert scene.stages()["n1"] == "waiting"


def test_a_closed_rollout_holds_nobody() -> None:
    """Who came late and waits for files that are gone would be lost to every later rollout."""
    nodes = {"n0": FakeNode(), "n1": FakeNode(there=False)}
    scene = Scene(nodes).run(30)
    nodes["n1"].there, nodes["n1"].course = True, ("waiting",)
    scene.run(5)
    assert (scene.status, scene.stages()["n1"], scene.rollout.held) == ("done", "told", {"n1"})
    scene.rollout.closed = True
    assert (scene.rollout.held, scene.rollout.is_settled) == (set(), False)


def test_a_named_node_that_nobody_has_seen_is_waited_for() -> None:
    """With nobody there nothing is chosen; when it appears it is the canary."""
    scene = Scene({}, to=("orin-7",)).run(3)
    assert (scene.status, scene.told) == ("waiting", [])
    scene.nodes["orin-7"] = FakeNode()
    scene.run(20)
    assert scene.status == "done"


def test_a_canary_that_goes_away_changes_its_place() -> None:
    """It had not been told yet: one that is there takes its turn, and so many canaries as before come first."""
    nodes = {f"n{number}": FakeNode() for number in range(4)}
    scene = Scene(nodes, canary=0.75)
    scene.step()  # three canaries, of which two may be under way at once
    third = next(name for name, one in scene.rollout.progress.nodes.items() if one.wave == 0 and one.epoch == 0)
    last = next(name for name, one in scene.rollout.progress.nodes.items() if one.wave == 1)
    nodes[third].there = False
    scene.run(4)
    waves = {name: one.wave for name, one in scene.rollout.progress.nodes.items()}
    assert (waves[third], waves[last]) == (1, 0)
    scene.run(20)
    assert (scene.status, scene.stages()[last]) == ("done", "serving")


def test_who_says_nothing_counts_as_failed() -> None:
    """After the limit and its trial; until then it holds up its wave."""
    silent = FakeNode(())
    scene = Scene({"n0": silent}, silent_s=10.0).run(15)
    assert scene.status == "active"
    scene.run(3)
    assert scene.status == "stopped"
    assert "said nothing more" in scene.rollout.progress.why
    assert [each.desired.undo for each in scene.told] == [False, True]


def test_who_speaks_again_is_healed() -> None:
    """It had stopped in the middle, and counts as failed until it says something new."""
    node = FakeNode(("fetching",))
    scene = Scene({"n0": node}, silent_s=10.0, max_failure=1.0).run(18)
    for _ in range(5):
        assert scene.step() == []
        assert scene.stages() == {"n0": "stuck"}
    node.left = ["trial", "serving"]
    scene.run(2)
    assert scene.stages() == {"n0": "told"}
    scene.run(2)
    assert scene.stages() == {"n0": "serving"}


def test_silence_is_counted_from_when_it_was_told() -> None:
    """Not from when it was seen first: its wave may have been long in coming."""
    rollout, seen = Rollout(order(silent_s=10.0)), FakeNode().seen
    (first,) = (each for each in rollout.step({"a": seen, "b": seen}, 0.0) if isinstance(each, PublishDesired))
    said = wire.Deployment(epoch=1, rollout="r1", bundle=NEW, version=2, phase="serving")
    has = msgspec.structs.replace(seen, deployment=said)
    both = {name: has if name == first.node else seen for name in ("a", "b")}
    for now in (100.0, 101.0):
        rollout.step(both, now)
        assert sorted(one.stage for one in rollout.progress.nodes.values()) == ["serving", "told"]


def test_what_it_said_to_an_earlier_epoch_is_not_believed() -> None:
    """A rollout of that name may have been here before, in another directory."""
    nodes = {"n0": NodeProgress(wave=0, stage="told", epoch=5)}
    rollout = Rollout(order(), Progress(status="active", nodes=nodes))
    said = wire.Deployment(epoch=3, rollout="r1", bundle=NEW, version=2, phase="serving")
    rollout.step({"n0": msgspec.structs.replace(FakeNode().seen, deployment=said, epoch=5)}, 0.0)
    assert rollout.progress.nodes["n0"].stage == "told"


def test_quiet_hours_are_no_silence() -> None:
    """A node that waits for the night is waited for as long as it is there; one that cannot fetch is not."""
    night, lost = FakeNode(("waiting",)), FakeNode(("waiting",))
    night.quiet = True
    assert Scene({"n0": night}, silent_s=10.0).run(100).status == "active"
    scene = Scene({"n0": lost}, silent_s=10.0).run(100)
    assert (scene.status, scene.stages()["n0"]) == ("stopped", "undone")
    assert "said nothing" in scene.rollout.progress.why


def test_nodes_that_have_it_are_told_nothing() -> None:
    """They count as serving it; a stop does not take it from them."""
    nodes = {f"n{number}": FakeNode() for number in range(3)}
    nodes["n0"].bundles = (served(NEW, 2),)
    nodes["n1"].course = nodes["n2"].course = BAD
    scene = Scene(nodes).run(60)
    assert (scene.status, scene.stages()["n0"]) == ("stopped", "serving")
    assert "n0" not in {each.node for each in scene.told}


def test_a_node_busy_with_another_rollout_is_left_alone() -> None:
    """It is told when it has ended there."""
    rollout = Rollout(order())
    seen = FakeNode().seen
    assert rollout.step({"n0": msgspec.structs.replace(seen, busy=True)}, 0.0) == []
    told = [each for each in rollout.step({"n0": seen}, 1.0) if isinstance(each, PublishDesired)]
    assert [each.node for each in told] == ["n0"]


def test_undo_waits_for_another_rollout_at_that_node() -> None:
    """There is one Desired for each node: an undo would take the place of what the other one has just told it."""
    rollout, seen = Rollout(order()), FakeNode(()).seen
    rollout.step({"n0": seen}, 0.0)
    rollout.cancel("by hand")
    told = rollout.step({"n0": msgspec.structs.replace(seen, busy=True)}, 1.0)
    assert not [each for each in told if isinstance(each, PublishDesired)]
    told = rollout.step({"n0": seen}, 2.0)
    assert [each.desired.undo for each in told if isinstance(each, PublishDesired)] == [True]


def test_epochs_go_up_from_whatever_was_there() -> None:
    """From what the broker has retained for the node."""
    node = FakeNode()
    node.retained = order().desired(41, ())
    scene = Scene({"n0": node})
    scene.step()
    assert [each.desired.epoch for each in scene.told] == [42]


def test_undo_is_above_what_anybody_else_has_told() -> None:
    """Else the node would take it for an old message."""
    rollout, seen = Rollout(order()), FakeNode(()).seen
    rollout.step({"n0": seen}, 0.0)
    rollout.cancel("by hand")
    effects = rollout.step({"n0": msgspec.structs.replace(seen, epoch=9)}, 1.0)
    assert [each.desired.epoch for each in effects if isinstance(each, PublishDesired)] == [10]


def test_who_does_not_say_that_it_heard_is_told_again() -> None:
    """The same, with the same epoch, now and then."""
    scene = Scene({"n0": FakeNode(())}).run(int(2 * REPEAT_S) + 2)
    assert len(scene.told) == 3
    assert len({each.desired for each in scene.told}) == 1


def test_cancelled_is_undone() -> None:
    """Somebody stops it: who was told goes back; one that has ended is not stopped any more."""
    scene = Scene({f"n{number}": FakeNode() for number in range(3)}).run(3)
    scene.rollout.cancel("stopped by hand")
    scene.run(10)
    assert scene.status == "cancelled"
    assert [each.desired.undo for each in scene.told] == [False, True]
    scene.rollout.cancel("again")
    assert scene.rollout.progress.why == "stopped by hand"


def test_persisted_before_told() -> None:
    """What is published is on the disk by then."""
    effects = Scene({"n0": FakeNode()}).step()
    assert isinstance(effects[0], Persist)
    assert effects[0].progress.nodes["n0"].epoch == 1
    assert isinstance(effects[-1], PublishDesired)


# --- whatever the nodes do ------------------------------------------------------------------------------


@given(FLEETS, st.sampled_from([0.1, 0.3, 1.0]), st.sampled_from([0.0, 0.02, 0.3, 1.0]))
def test_nobody_before_the_canaries(
    courses: list[tuple[tuple[wire.Phase, ...], str]], share: float, most: float
) -> None:
    """Until each canary serves it, or has failed within the limit, only canaries are told anything."""
    scene = Scene(fleet(courses), canary=share, max_failure=most)
    for _ in range(80):
        before = scene.rollout.progress
        effects = scene.step()
        told = [each for each in effects if isinstance(each, PublishDesired) and not each.desired.undo]
        after = scene.rollout.progress.nodes
        if any(after[each.node].wave > 0 for each in told):
            firsts = [one for one in before.nodes.values() if one.wave == 0]
            now = [after[name] for name, one in before.nodes.items() if one.wave == 0]
            assert firsts
            assert all(one.stage in ("serving", "failed") for one in now)


@given(FLEETS, st.sampled_from([0.0, 0.02, 0.3]), st.integers(0, 30))
def test_after_a_stop_nothing_but_undo(
    courses: list[tuple[tuple[wire.Phase, ...], str]], most: float, cancel_at: int
) -> None:
    """Nothing else is said; and at the end nobody that was told serves the bundle."""
    scene = Scene(fleet(courses), max_failure=most)
    for second in range(100):
        ended = scene.status in ("stopped", "cancelled")
        effects = scene.step()
        if ended:
            assert all(each.desired.undo for each in effects if isinstance(each, PublishDesired))
        if second == cancel_at:
            scene.rollout.cancel("by hand")
    if scene.status in ("stopped", "cancelled"):
        assert all(node.bundles[0].bundle == OLD for node in scene.nodes.values())


@given(FLEETS, st.sampled_from([0.0, 0.3, 1.0]))
def test_each_node_is_told_once(courses: list[tuple[tuple[wire.Phase, ...], str]], most: float) -> None:
    """One Desired to take the bundle and at most one to undo it, whose epoch is higher."""
    scene = Scene(fleet(courses), max_failure=most).run(90)
    for name in scene.nodes:
        told = [each.desired for each in scene.told if each.node == name]
        assert [desired.undo for desired in told] in ([], [False], [False, True])
        assert len({desired.epoch for desired in told}) == len(told)
        assert sorted(desired.epoch for desired in told) == [desired.epoch for desired in told]


@given(FLEETS, st.sampled_from([0.1, 0.5, 1.0]))
def test_half_of_the_fleet_stays_out_of_it(courses: list[tuple[tuple[wire.Phase, ...], str]], share: float) -> None:
    """Never are more than half of the nodes that serve the model under way, but for one."""
    scene = Scene(fleet(courses), canary=share, max_failure=1.0)
    for _ in range(80):
        scene.step()
        under_way = sum(stage == "told" for stage in scene.stages().values())
        assert under_way <= max(len(scene.nodes) // 2, 1)


@given(
    FLEETS,
    st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    st.dictionaries(st.integers(0, 60), st.integers(0, 6), max_size=5),
)
def test_a_hub_that_dies_anywhere_comes_to_the_same_end(
    courses: list[tuple[tuple[wire.Phase, ...], str]], most: float, deaths: dict[int, int]
) -> None:
    """Killed between any two effects and started again, it ends as it would have, and says the same."""
    whole = Scene(fleet(courses), max_failure=most).run(150)
    scene = Scene(fleet(courses), max_failure=most)
    for second in range(150):
        scene.step(dies_after=deaths.get(second))
    assert (scene.status, scene.stages()) == (whole.status, whole.stages())
    for name in scene.nodes:
        told = {each.desired.epoch: each.desired for each in scene.told if each.node == name}
        assert all(told[each.desired.epoch] == each.desired for each in scene.told if each.node == name)


def test_nothing_is_persisted_where_nothing_has_changed() -> None:
    """A fleet that stands still writes nothing."""
    scene = Scene({"n0": FakeNode()}).run(30)
    assert scene.step() == []
    assert scene.disk == scene.rollout.progress != Progress()


@pytest.mark.parametrize("phase", ["refused", "undone"])
def test_a_node_that_goes_back_later_counts(phase: wire.Phase) -> None:
    """It had said `serving`; two crashes later it has gone back, while others are under way."""
    nodes = {f"n{number}": FakeNode(GOOD if number else (*GOOD, phase)) for number in range(2)}
    scene = Scene(nodes).run(60)
    assert scene.status == ("stopped" if scene.told[0].node == "n0" else "done")
    assert scene.stages()["n0"] == "failed"


def test_a_node_that_says_the_last_epoch_hurts_itself_alone() -> None:
    """Its own state may say any epoch; what the hub writes down and sends of it can still be read."""
    rollout, node = Rollout(order()), FakeNode(())
    seen = msgspec.structs.replace(node.seen, epoch=wire.MAX_COUNT)
    told = [each for each in rollout.step({"n0": seen}, 0.0) if isinstance(each, PublishDesired)]
    rollout.cancel("by hand")
    told += [each for each in rollout.step({"n0": seen}, 1.0) if isinstance(each, PublishDesired)]
    assert [each.desired.undo for each in told] == [False, True]
    for each in told:
        assert wire.decode_desired(wire.encode(each.desired)) == each.desired
    assert msgspec.json.decode(msgspec.json.encode(rollout.progress), type=Progress) == rollout.progress


def test_why_a_node_failed_is_one_line() -> None:
    """It goes into the log, into terminals and into files."""
    node = FakeNode(REFUSES)
    node.why = "bad\n2026 INFO all is well\x1b[2J"
    scene = Scene({"n0": node}).run(5)
    assert scene.disk.nodes["n0"].why == "bad\\n2026 INFO all is well\\x1b[2J"
    assert "\n" not in scene.disk.why
