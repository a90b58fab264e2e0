"""Which nodes could take a question, and what is said of the others."""

from __future__ import annotations

from typing import Any

import pytest

from hub.eligible import refusal
from hub.fleet import (
    Node,
    doubted,
)
from hub.router import choose
from tests.hub.core_driver import bundle
from tests.hub.test_router import NOW, chosen, fleet_of, node_of, question


def test_every_rejection_has_its_reason() -> None:
    """Each node that was no candidate is named with the first rule that it fails."""
    decision = choose(
        question(model="smol", max_tokens=1000),
        fleet_of(
            node_of("a"),
            node_of("b-busy", status="draining"),
            node_of("c-small", bundle(context=512)),
            node_of("d-other", bundle(bundle="x", model="big")),
            node_of("e-task", bundle(task="embedding")),
            node_of("f-failed"),
            doubted(node_of("g-silent")),
        ),
        NOW,
        {"f-failed"},
    )
    reasons = {rejected.node: rejected.reason for rejected in decision.rejected}
    assert chosen(decision) == "a"
    assert reasons == {
        "b-busy": "smol-int4: draining",
        "c-small": "smol-int4: context 512 is too small",
        "d-other": "x: is not model smol",
        "e-task": "smol-int4: does not do text-generation",
        "f-failed": "smol-int4: failed this question",
        "g-silent": "smol-int4: three pings were lost",
    }


@pytest.mark.parametrize(
    ("nodes_there", "asked", "code", "told_so"),
    [
        ((), {}, "no_node", "no node is connected"),
        ((node_of("a", status="draining"),), {}, "no_node", "1 nodes are draining"),
        ((node_of("a"),), {"model": "giant"}, "unsupported", "there is smol (text-generation)"),
        ((node_of("a"),), {"task": "embedding"}, "unsupported", "no node serves embedding"),
        (
            (node_of("a"), node_of("b", bundle(model="giant"), status="draining")),
            {"model": "giant"},
            "no_node",
            "draining or offline",
        ),
        ((node_of("a"),), {"max_tokens": 5000}, "too_large", "largest context, 2048"),
    ],
)
def test_refusals(nodes_there: tuple[Node, ...], asked: dict[str, Any], code: str, told_so: str) -> None:
    """Why nobody can answer, as a code and in words."""
    problem = refusal(question(**asked), fleet_of(*nodes_there))
    assert problem.code == code
    assert told_so in problem.message
