"""Ended questions column by column."""

from __future__ import annotations

import numpy as np

from tests.hub.rows import history, row

ROWS = [row(id="1", node="b"), row(id="2", node=None, predicted_ms=None), row(id="3", node="b", attempts=0, local=True)]


def test_names_are_kept_once() -> None:
    """A column of names is codes into the names in order of their coming; no name is the empty one."""
    nodes = history(ROWS).node
    assert (nodes.codes.tolist(), nodes.names) == ([0, 1, 0], ("b", ""))
    assert nodes.are("b").tolist() == [True, False, True]
    assert not nodes.are("c").any()


def test_some_of_them() -> None:
    """A mask, or indices, chooses in every column alike."""
    whole = history(ROWS)
    for chosen in (whole.where(whole.local), whole.where(np.array([2]))):
        assert (len(chosen), chosen.row.tolist(), chosen.node.codes.tolist()) == (1, [3], [0])
    assert np.isnan(whole.where(np.array([1])).predicted_ms).all()
