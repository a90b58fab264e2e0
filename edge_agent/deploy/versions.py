"""May this version come? Versions of a model only go up on a node, unless the maker signed a downgrade. Pure.

Knows nothing of signatures: whoever verified them says what the manifest says.
"""

from __future__ import annotations

from edge_agent.deploy.events import Facts
from edge_agent.deploy.state import State


def version_fault(state: State, facts: Facts) -> str | None:
    """Why a bundle of these facts must not come in the place of what serves now; None if it may.

    Held against the highest version confirmed of the model that it replaces, and of its own.
    """
    desired = state.record.desired
    assert desired is not None
    if (facts.bundle, facts.version) != (desired.bundle, desired.version):
        return (
            f"the manifest is of {facts.bundle} version {facts.version}, "
            f"and {desired.bundle} version {desired.version} is desired"
        )
    for model in sorted({desired.replaces, facts.model}):
        highest = highest_confirmed(state, model)
        allowed = -1 if facts.downgrade_from is None else facts.downgrade_from
        if facts.version <= highest and allowed < highest:
            return (
                f"version {facts.version} of {model} is not above {highest}, which was confirmed here: "
                "raise the version, or sign it as a downgrade from that one"
            )
    return None


def highest_confirmed(state: State, model: str) -> int:
    """Of the bundles of this model that served here for good, the fixed ones among them; -1 without any."""
    fixed = (one.version for one in state.fixed if one.model == model)
    return max([state.record.highest.get(model, -1), *fixed])
