"""The fleet's table follows its nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hub import wire
from hub.columns import Fleet
from hub.fleet import Standing, announced, doubted, ponged
from tests.hub.core_driver import bundle

COLUMNS = ("model", "bundle", "task", "standing", "network_ms", "decode_ms", "prompt_slope", "others_end_s")


def put(fleet: Fleet, name: str, *bundles: wire.ServedBundle, epoch: int = 1) -> None:
    state = wire.NodeState(epoch=epoch, status="ready", bundles=bundles)
    fleet.put(announced(fleet.get(name), name, state, 0.0, live=False))


def shown(fleet: Fleet) -> dict[tuple[str, str], Any]:
    """Each used row by what it stands for."""
    table = fleet.table
    rows = [int(row) for row in np.flatnonzero(table["used"])]
    return {fleet.label(row): {name: table[name][row] for name in COLUMNS} for row in rows}


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 40)), max_size=40))
def test_one_row_for_each_node_and_bundle(steps: list[tuple[str, int]]) -> None:
    """Whatever is put, changed and forgotten, the rows are those of the nodes that are there."""
    fleet, expected = Fleet(), dict[str, int]()
    for epoch, (name, count) in enumerate(steps):
        if count == 40 and name in fleet:
            fleet.forget(name)
            del expected[name]
            continue
        put(fleet, name, *(bundle(bundle=f"b{number:02}") for number in range(count)), epoch=epoch)
        expected[name] = count
    rows = {(name, f"b{number:02}") for name, count in expected.items() for number in range(count)}
    assert set(shown(fleet)) == rows
    assert len(fleet) == len(expected)
    used = np.flatnonzero(fleet.table["used"])
    assert [fleet.label(int(row)) for row in used[np.argsort(fleet.rank()[used])]] == sorted(rows)


def test_row_shows_its_node() -> None:
    """Standing, distance and costs of the row are those of the node, after every change."""
    fleet = Fleet()
    put(fleet, "a", bundle(decode_ms_per_token=7.0))
    assert np.isnan(shown(fleet)["a", "smol-int4"]["network_ms"])
    node = fleet.get("a")
    assert node is not None
    fleet.put(doubted(ponged(node, wire.Backlog(questions=1, ms=500), 12.0, 1.0)))
    row = shown(fleet)["a", "smol-int4"]
    assert (row["standing"], row["network_ms"], row["decode_ms"]) == (int(Standing.SUSPECT), 12.0, 7.0)
    assert row["others_end_s"] == 1.494


def test_prompt_sizes_are_shared_by_a_bundle() -> None:
    """What one node's answer shows of a tokenizer holds on every node with that bundle, and on later ones."""
    fleet = Fleet()
    put(fleet, "a", bundle())
    put(fleet, "b", bundle(), bundle(bundle="other"))
    for _ in range(50):
        fleet.learn_prompt_size("smol-int4", 400, 300)
    put(fleet, "c", bundle())
    rows = shown(fleet)
    slopes = {label: float(row["prompt_slope"]) for label, row in rows.items()}
    assert slopes["a", "smol-int4"] == slopes["b", "smol-int4"] == slopes["c", "smol-int4"] > 0.4
    assert slopes["b", "other"] == 0.25


def test_words_of_nodes_long_gone_are_forgotten() -> None:
    """A node that serves ever new names does not fill the memory."""
    fleet = Fleet()
    for number in range(3000):
        put(fleet, "a", bundle(bundle=f"b{number}", model=f"m{number}"), epoch=number)
        assert len(fleet.table)  # reading it writes the rows
    assert set(shown(fleet)) == {("a", "b2999")}
    assert len(fleet._words) < 1200
    row = shown(fleet)["a", "b2999"]
    assert (row["model"], row["bundle"]) == (fleet.word("m2999"), fleet.word("b2999"))


def test_unknown_words_match_nothing() -> None:
    """A model that no node has is no row's model, not even a free row's."""
    fleet = Fleet()
    put(fleet, "a", bundle())
    assert not (fleet.table["model"] == fleet.word("giant")).any()
