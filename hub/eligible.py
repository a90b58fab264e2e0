"""Which nodes and bundles could take a question at all, and why can the others not?

A node must do the task, with the model that is asked for, and have room for the question. Knows nothing of delays.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hub import wire
from hub.columns import Fleet
from hub.decision import Rejected
from hub.fleet import Node, Standing, served_models
from hub.table import Table

NAMED: Final = 16  # candidates, and rejected ones, that a decision names
SURE_SHARE: Final = 0.75  # of the rough prompt estimate: a question is refused only if even this does not fit
LAST_USABLE: Final = int(Standing.LOST)

Mask = NDArray[np.bool_]


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """What of a question its delay depends on. `larger_than` is a context that turned out too small.

    `budget_ms` is what is left until its deadline; None where that does not matter.
    """

    device: str
    id: str
    attempt: int
    task: str
    model: str | None
    chars: int
    payload_bytes: int = 0
    max_tokens: int | None
    expected_tokens: float
    larger_than: int = -1
    budget_ms: float | None = None
    cached: tuple[tuple[str, float], ...] = ()  # prompt tokens that a node need not read again
    holder: str | None = None  # the node that has the conversation


def matching(question: Features, fleet: Fleet, table: Table) -> Mask:
    """Rows that do its task, with its model where it names one."""
    mask: Mask = table["task"] == fleet.word(question.task)
    if question.model is not None:
        wanted = fleet.word(question.model)
        mask &= (table["model"] == wanted) | (table["bundle"] == wanted)
    return mask


def fitting(question: Features, table: Table, prompt_tokens: NDArray[np.float64]) -> Mask:
    """Rows whose context holds it, by the rough estimate of its prompt and what its answer may have."""
    needed = SURE_SHARE * prompt_tokens + (question.max_tokens or 0)
    mask: Mask = (needed <= table["context"]) & (table["context"] > question.larger_than)
    return mask


def refusal(question: Features, fleet: Fleet) -> wire.Problem:
    """Why no node can take this question, as its asker should hear it."""
    nodes = [node for node in fleet.values() if node.standing <= LAST_USABLE]
    draining = sum(node.standing == Standing.DRAINING for node in fleet.values())
    if not nodes:
        why = f"{draining} nodes are draining" if draining else "no node is connected to this hub's broker"
        return wire.Problem(code="no_node", message=f"{why}: start one with `edge-agent serve`")
    wanted = question.task + (f" with model {question.model[:200]!r}" if question.model else "")
    table = fleet.table
    doing = matching(question, fleet, table)
    if not doing.any():
        message = f"no node serves {wanted}; there is {served_models(nodes)}"
        return wire.Problem(code="unsupported", message=message)
    present = doing & (table["standing"] <= LAST_USABLE)
    if not present.any():
        message = f"every node that serves {wanted} is draining or offline"
        return wire.Problem(code="no_node", message=message)
    context = int(table["context"][present].max())
    prompt_tokens = int((table["prompt_offset"] + table["prompt_slope"] * question.chars)[present].min())
    message = (
        f"about {prompt_tokens} prompt tokens and {question.max_tokens or 'some'} answer tokens do not fit into the "
        f"largest context, {context}: shorten the question or lower max_tokens"
    )
    return wire.Problem(code="too_large", message=message)


def rejected(
    question: Features, fleet: Fleet, others: Mask, exclude: Set[str], tier: int
) -> tuple[tuple[Rejected, ...], int]:
    """Up to NAMED of the rows that are no candidates, with the first reason of each, and how many more there are."""
    rows = others.nonzero()[0]
    if not len(rows):
        return (), 0
    rank = fleet.rank()
    first = rows[np.argpartition(rank[rows], NAMED)[:NAMED]] if len(rows) > NAMED else rows
    named = []
    for row in sorted((int(row) for row in first), key=rank.__getitem__):
        name, bundle = fleet.label(row)
        node = fleet.get(name)
        assert node is not None
        served = node.bundles[fleet.rows(name).index(row)]
        named.append(Rejected(name, f"{bundle}: {why_not(question, node, served, exclude, tier)}"))
    return tuple(named), len(rows) - len(named)


def why_not(question: Features, node: Node, served: wire.ServedBundle, exclude: Set[str], tier: int) -> str:
    """Why a bundle of a node is no candidate where nodes of standing `tier` are."""
    if served.task != question.task:
        return f"does not do {question.task}"
    if question.model not in (None, served.model, served.bundle):
        return f"is not model {question.model}"
    if node.name in exclude:
        return "failed this question"
    if node.standing > tier:
        return {
            Standing.SUSPECT: "three pings were lost",
            Standing.LOST: "went offline, may come back",
            Standing.DRAINING: "draining",
            Standing.GONE: "offline",
        }[node.standing]
    return f"context {served.context} is too small"
