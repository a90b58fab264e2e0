"""What happened in a run with faults, as one process saw it: values, and how they are written to a file.

Every time is monotonic seconds of that one process. Knows nothing of what was promised.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

Key = tuple[str, str]  # device and question id
MACHINE = "machine"  # the party that is down while the whole machine stood still
BROKER = "broker"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A question as it was given to its asker. `text` is what a no-op node answers."""

    device: str
    id: str
    at_s: float
    deadline_s: float
    text: str
    plain: bool = False  # by a client that knows MQTT and nothing else
    streamed: bool = False


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """An outcome as its asker got it. `code` is `answered` or that of a failure; `own_timer`: it came from nobody."""

    device: str
    id: str
    at_s: float
    code: str
    text: str | None = None
    node: str | None = None
    own_timer: bool = False
    shown: str | None = None  # of a streamed answer the text of the last attempt, as far as it was shown


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """An outcome as it passed the broker on the answer topic of `device`. A replayed one is no word of the fleet."""

    device: str
    id: str
    at_s: float
    code: str
    node: str | None = None  # of an answer, where it says so
    replayed: bool = False


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """A message about this question was published once more, by somebody who had only overheard it."""

    device: str
    id: str
    at_s: float
    what: str


class Down(msgspec.Struct, frozen=True, kw_only=True):
    """`party` was not up. What up means stands in `uptime.py`."""

    party: str
    from_s: float
    to_s: float


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A fault as it happened, from its first effect to its mending."""

    kind: str
    party: str
    from_s: float
    to_s: float


class Died(msgspec.Struct, frozen=True, kw_only=True):
    """A process ended that nobody had ended."""

    party: str
    at_s: float
    status: int


Event = Asked | Ended | Heard | Replayed | Down | Hit | Died


class History(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run."""

    seed: int
    start_s: float
    end_s: float
    hubs: tuple[str, ...]
    nodes: tuple[str, ...]
    real: tuple[str, ...] = ()  # those of the nodes that serve a model: what they will answer is not known
    asked: tuple[Asked, ...] = ()
    ended: tuple[Ended, ...] = ()
    heard: tuple[Heard, ...] = ()
    replayed: tuple[Replayed, ...] = ()
    down: tuple[Down, ...] = ()
    hits: tuple[Hit, ...] = ()
    died: tuple[Died, ...] = ()


class Log:
    """Takes events from any thread, and gives them back by kind."""

    def __init__(self) -> None:
        self._events: list[Event] = []  # appending to a list needs no lock

    def add(self, event: Event) -> None:
        self._events.append(event)

    @property
    def ended(self) -> int:
        """Outcomes so far."""
        return sum(isinstance(event, Ended) for event in list(self._events))

    def history(
        self, *, seed: int, start_s: float, end_s: float, hubs: list[str], nodes: list[str], real: list[str]
    ) -> History:
        """Everything so far."""
        events = list(self._events)
        return History(
            seed=seed,
            start_s=start_s,
            end_s=end_s,
            hubs=tuple(hubs),
            nodes=tuple(nodes),
            real=tuple(real),
            asked=tuple(event for event in events if isinstance(event, Asked)),
            ended=tuple(event for event in events if isinstance(event, Ended)),
            heard=tuple(event for event in events if isinstance(event, Heard)),
            replayed=tuple(event for event in events if isinstance(event, Replayed)),
            down=tuple(event for event in events if isinstance(event, Down)),
            hits=tuple(event for event in events if isinstance(event, Hit)),
            died=tuple(event for event in events if isinstance(event, Died)),
        )


def write(history: History, path: Path) -> None:
    """One JSON document."""
    path.write_bytes(msgspec.json.encode(history))


def read(path: Path) -> History:
    """Raises msgspec.ValidationError for a file that is no history."""
    return msgspec.json.decode(path.read_bytes(), type=History)
