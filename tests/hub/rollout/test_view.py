"""What is shown of a rollout."""

from __future__ import annotations

import msgspec

from hub import wire
from hub.rollout.order import NodeProgress, Progress
from hub.rollout.view import MOST_TROUBLES, PHASES, document, in_words, rows_of, seen_in, summary
from tests.hub.rollout.scene import BAD, GOOD, FakeNode, Scene, order, served


def test_every_phase_has_a_word() -> None:
    """Whatever happens in a rollout, its rows say one of the words that metrics and page know."""
    nodes = {f"n{number}": FakeNode(BAD if number % 3 == 0 else GOOD) for number in range(12)}
    nodes["n5"].there = False
    nodes["n7"].course = ()
    scene = Scene(nodes, max_failure=1.0, silent_s=5.0)
    seen_phases = set()
    for _ in range(80):
        scene.step()
        seen = {name: node.seen for name, node in nodes.items()}
        rows = rows_of(scene.order, scene.rollout.progress, seen)
        whole = summary(scene.order, scene.rollout.progress, rows)
        assert sum(whole["phases"].values()) == whole["nodes"] == len(rows)
        seen_phases |= set(whole["phases"])
    assert seen_phases <= set(PHASES)
    assert {"absent", "queued", "told", "fetching", "trial", "serving", "failed", "stuck"} <= seen_phases


def test_what_the_node_says_now() -> None:
    """Progress, bytes and the figures of its trial, where what it says is of this rollout and this epoch."""
    progress = Progress(status="active", nodes={"n": NodeProgress(wave=0, stage="told", epoch=4, phase="fetching")})
    said = wire.Deployment(
        epoch=4, rollout="r1", bundle="b", version=2, phase="trial", progress=0.456, fetched_bytes=99,
        answered=7, failed=1, slower=0.25,
    )  # fmt: skip
    state = wire.NodeState(epoch=1, status="ready", bundles=(served(),), deployment=said, deploys=True)
    (row,) = rows_of(order(), progress, seen_in({"n": state}))
    assert (row.phase, row.progress, row.fetched_bytes, row.answered, row.slower) == ("trial", 0.46, 99, 7, 0.25)
    old = msgspec.structs.replace(state, deployment=msgspec.structs.replace(said, epoch=3))
    for seen in (seen_in({"n": old}), None):
        (row,) = rows_of(order(), progress, seen)
        assert (row.phase, row.progress, row.answered) == ("fetching", None, None)


def test_troubles_are_bounded() -> None:
    """With hundreds of nodes that went back the first are named, the others counted."""
    nodes = {f"n{number:03}": NodeProgress(wave=0, stage="failed", epoch=1, why="worse") for number in range(500)}
    progress = Progress(status="stopped", nodes=nodes)
    whole = summary(order(), progress, rows_of(order(), progress, None))
    assert (len(whole["trouble"]), whole["more_trouble"]) == (MOST_TROUBLES, 500 - MOST_TROUBLES)
    assert len(msgspec.json.encode(whole)) < 3000


def test_in_words() -> None:
    """One line, also where nobody is there."""
    assert "is waiting, and waits for a hub" in in_words(document(order(), Progress(), None))
    nodes = {"a": NodeProgress(wave=0, stage="serving", epoch=1), "b": NodeProgress(wave=1)}
    shown = document(order(), Progress(status="active", nodes=nodes), None)
    assert in_words(shown) == "rollout r1 is active, wave 1 of 2: 1 queued, 1 serving"
    assert [row["node"] for row in shown["nodes"]] == ["a", "b"]
