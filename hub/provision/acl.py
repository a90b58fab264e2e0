"""Which topics may each identity publish and read? Mosquitto's `acl_file`, one block for each identity.

Whatever stands in no block is denied. Mosquitto grants every subscription and checks each message, so a filter that is
wider than these rules brings no more than they allow. Every topic is one of `hub.wire`.
"""

from __future__ import annotations

from collections.abc import Iterable

from hub.provision.subject import Subject
from hub.wire import Topic

_HEADER = "# Written by edge-hub provision; changes here are lost. What is not allowed below is denied."


def rules(subject: Subject) -> list[tuple[str, str]]:
    """`read` or `write`, and a filter.

    >>> rules(Subject("device", "kitchen"))
    [('write', 'edge/v1/ask/kitchen'), ('read', 'edge/v1/answer/kitchen/#')]
    """
    asking = [] if subject.asks_as is None else _asking(subject.asks_as)
    if subject.role == "node":
        return [*_node(subject.name), *asking]
    return [*_hub(), *asking] if subject.role == "hub" else asking


def acl_file(subjects: Iterable[Subject]) -> str:
    """The rules of all."""
    blocks = [
        "\n".join([f"user {subject.identity}", *(f"topic {access} {topic}" for access, topic in rules(subject))])
        for subject in subjects
        if rules(subject)
    ]
    return "\n\n".join([_HEADER, *blocks]) + "\n"


def _asking(device: str) -> list[tuple[str, str]]:
    """`answer/DEVICE/#` holds `answer/DEVICE` itself and what a device may name as its Response Topic below."""
    return [("write", str(Topic("ask", device))), ("read", f"{Topic('answer', device)}/#")]


def _node(name: str) -> list[tuple[str, str]]:
    """A node answers whom it is told to, so it can write any answer."""
    own = [("read", str(Topic(kind, name))) for kind in ("work", "control", "desired", "node_state")]
    own += [("write", str(Topic(kind, name))) for kind in ("node_state", "report")]
    others = [("read", Topic.all_of("hub_state")), ("write", f"{Topic.all_of('answer')}/#")]
    return [*own, *others]


def _hub() -> list[tuple[str, str]]:
    """A hub inherits from others: it clears the state of one that is gone."""
    read = [("read", Topic.all_of(kind)) for kind in ("ask", "node_state", "hub_state", "report", "work", "desired")]
    write = [("write", Topic.all_of(kind)) for kind in ("work", "control", "desired", "hub_state")]
    return [*read, *write, ("write", f"{Topic.all_of('answer')}/#")]
