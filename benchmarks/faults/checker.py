"""Was every promise kept? Reads a history and names each question for which one was not. Pure.

- *one outcome*: each question ends exactly once at its asker, no later than `LATE_S` after its deadline.
- *answered*: with `STRETCH_S` of its budget in which broker, one hub, one node and its device's link were up, all in
  one stretch (`uptime.py` says what up is), that outcome is an answer.
- *its own*: an answer is that of this very question (where no model gave it), on the topic of the device that asked;
  what was shown of a streamed one is how the whole begins.
- *nothing after a failure*: on the wire, a failure that a hub has published is not followed by an answer of a node.
  Counted apart is what no hub and node can prevent (askers drop it): the answer, or the hub's Cancel, was under way
  while the broker, or the node's link or process, stood still or was slow; a stranger had replayed a message of that
  question; it came within `RACE_S`, before a Cancel could reach the node; or two hubs may have had it, because one of
  several, or the broker, was struck while the question was open.
- *alive*: no process ends by itself.
- *share*: at least `SHARE` of the outcomes that came from the fleet are answers.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

from .history import BROKER, Ended, Heard, History, Key
from .uptime import Uptime

STRETCH_S: Final = 5.0
LATE_S: Final = 1.0
RACE_S: Final = 0.25
SHARE: Final = 0.98


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """A promise that was not kept."""

    promise: str
    device: str
    id: str
    at_s: float
    why: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the checker found. `owed` questions had to be answered, whatever else went wrong."""

    violations: tuple[Violation, ...]
    questions: int
    answered: int
    owed: int
    own_timer: int
    outcomes: dict[str, int]
    share: float
    notes: dict[str, int]


def check(history: History) -> Verdict:
    """Every violation, in the order of time."""
    ended: dict[Key, list[Ended]] = {}
    for outcome in history.ended:
        ended.setdefault((outcome.device, outcome.id), []).append(outcome)
    uptime = Uptime(history)
    notes: Counter[str] = Counter()
    owed = {
        (asked.device, asked.id): uptime.was_enough(asked.device, asked.at_s, asked.deadline_s, STRETCH_S)
        for asked in history.asked
    }
    found = [
        *_outcomes(history, ended, uptime),
        *_answers(history, ended, owed),
        *_own(history, ended),
        *_wire(history, notes),
        *(
            Violation(promise="alive", device=died.party, id="", at_s=died.at_s, why=f"ended with {died.status}")
            for died in history.died
        ),
    ]
    outcomes = Counter("own timer" if one.own_timer else one.code for one in history.ended)
    heard = sum(outcomes.values()) - outcomes["own timer"]
    share = outcomes["answered"] / heard if heard else 1.0
    if share < SHARE:
        why = f"{outcomes['answered']} answers of {heard} outcomes from the fleet"
        found.append(Violation(promise="share", device="", id="", at_s=history.end_s, why=why))
    return Verdict(
        violations=tuple(sorted(found, key=lambda violation: violation.at_s)),
        questions=len(history.asked),
        answered=outcomes["answered"],
        owed=sum(owed.values()),
        own_timer=outcomes["own timer"],
        outcomes=dict(sorted(outcomes.items())),
        share=share,
        notes=dict(sorted(notes.items())),
    )


def _outcomes(history: History, ended: dict[Key, list[Ended]], uptime: Uptime) -> list[Violation]:
    found = []
    asked_keys = {(asked.device, asked.id) for asked in history.asked}
    for key, several in ended.items():
        if key not in asked_keys:
            found.append(_violation("one outcome", several[0], "an outcome of a question that was not asked"))
    for asked in history.asked:
        several = ended.get((asked.device, asked.id), [])
        if len(several) != 1:
            codes = ", ".join(one.code for one in several) or "none"
            violation = Violation(
                promise="one outcome", device=asked.device, id=asked.id, at_s=asked.at_s, why=f"outcomes: {codes}"
            )
            found.append(violation)
            continue
        late_s = several[0].at_s - asked.deadline_s
        if late_s > LATE_S + uptime.still(asked.deadline_s, several[0].at_s):
            found.append(_violation("one outcome", several[0], f"{late_s:.2f} s after the deadline"))
    return found


def _answers(history: History, ended: dict[Key, list[Ended]], owed: dict[Key, bool]) -> list[Violation]:
    return [
        _violation("answered", outcome, f"{outcome.code}{' by its own timer' if outcome.own_timer else ''}")
        for asked in history.asked
        for outcome in ended.get((asked.device, asked.id), [])[:1]
        if owed[asked.device, asked.id] and outcome.code != "answered"
    ]


def _own(history: History, ended: dict[Key, list[Ended]]) -> list[Violation]:
    found = []
    for asked in history.asked:
        for outcome in ended.get((asked.device, asked.id), []):
            if outcome.code != "answered":
                continue
            is_known = not history.real or outcome.node not in (None, *history.real)
            if is_known and outcome.text != asked.text:
                found.append(_violation("its own", outcome, f"answered {outcome.text!r}, not {asked.text!r}"))
            if outcome.shown is not None and not (outcome.text or "").startswith(outcome.shown):
                found.append(_violation("its own", outcome, f"showed {outcome.shown!r} of {outcome.text!r}"))
    return found


def _wire(history: History, notes: Counter[str]) -> list[Violation]:
    found = []
    device_of = {asked.id: asked.device for asked in history.asked}
    asked_s = {(asked.device, asked.id): asked.at_s for asked in history.asked}
    by_key: dict[Key, list[Heard]] = {}
    for heard in history.heard:
        if device_of.get(heard.id, heard.device) != heard.device:
            found.append(_violation("its own", heard, f"heard there, but asked by {device_of[heard.id]}"))
        if not heard.replayed:
            by_key.setdefault((heard.device, heard.id), []).append(heard)
    replayed_s: dict[Key, float] = {}
    for replay in history.replayed:
        key = (replay.device, replay.id)
        replayed_s[key] = min(replay.at_s, replayed_s.get(key, replay.at_s))
    for key, several in by_key.items():
        first = several[0]
        later = next((heard for heard in several if heard.code == "answered"), None)
        if first.code == "answered" or later is None:
            continue
        if replayed_s.get(key, later.at_s) < later.at_s:
            notes["answer after failure, replayed"] += 1
        elif _was_under_way(history, first, later):
            notes["answer after failure, under way in a fault"] += 1
        elif later.at_s - first.at_s <= RACE_S:
            notes["answer after failure, at the same moment"] += 1
        elif len(history.hubs) > 1 and _was_struck(history, {BROKER, *history.hubs}, asked_s.get(key, 0.0), later.at_s):
            notes["answer after failure, maybe of two hubs"] += 1
        else:
            why = f"{first.code}, and {later.at_s - first.at_s:.3f} s after it an answer"
            found.append(_violation("nothing after a failure", later, why))
    return found


def _was_under_way(history: History, failure: Heard, answer: Heard) -> bool:
    """Whether something between node and broker stood still or was slow between the two."""
    parties = {BROKER, *((answer.node,) if answer.node is not None else history.nodes)}
    return _was_struck(history, parties, failure.at_s - RACE_S, answer.at_s)


def _was_struck(history: History, parties: set[str], from_s: float, to_s: float) -> bool:
    """Whether one of them had a fault between the two."""
    return any(hit.party in parties and hit.from_s < to_s and hit.to_s > from_s for hit in history.hits)


def _violation(promise: str, of: Ended | Heard, why: str) -> Violation:
    return Violation(promise=promise, device=of.device, id=of.id, at_s=of.at_s, why=why)
