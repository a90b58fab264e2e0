"""How rollouts look in a terminal."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table

from hub import wire
from hub.rollout.order import NodeProgress, Progress
from hub.rollout.table import nodes_table, rollouts_table
from hub.rollout.view import document, left_out, seen_in
from tests.hub.rollout.scene import order


def printed(table: Table) -> str:
    text = io.StringIO()
    Console(file=text, width=200).print(table)
    return text.getvalue()


def test_a_row_for_each_node() -> None:
    """With phase, progress, what its trial came to, and why; foreign brackets are no markup."""
    said = wire.Deployment(
        epoch=1, rollout="r1", bundle="b", version=2, phase="trial", progress=0.5, fetched_bytes=1_500_000, answered=7,
        failed=1, slower=-0.05, why="[red]odd[/red]",
    )  # fmt: skip
    progress = Progress(
        status="active", nodes={"n": NodeProgress(wave=0, stage="told", epoch=1), "m": NodeProgress(wave=1)}
    )
    seen = seen_in({"n": wire.NodeState(epoch=1, status="ready", deployment=said, deploys=True)})
    text = printed(nodes_table(document(order(), progress, seen)))
    for part in ("trial 50%", "1.5 MB", "7 answered, 1 failed, -5%", "[red]odd[/red]", "absent"):
        assert part in text


def test_a_row_for_each_rollout() -> None:
    """The last one first."""
    documents = [document(order(name=name), Progress(), None) for name in ("old", "new")]
    text = printed(rollouts_table(documents))
    assert text.index("new") < text.index("old")


def test_what_cannot_be_read_has_a_row() -> None:
    """With why, and nothing that is not known."""
    text = printed(rollouts_table([{**left_out("r1", "r1.json is damaged"), "nodes": []}]))
    assert "r1.json is damaged" in text
    assert "v0" not in text
