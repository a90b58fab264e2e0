"""How a node gets from one bundle to another, and back. Pure: `step(state, event, now)` gives state and effects.

    phase     event            to        what is done
    --------  ---------------  --------  ----------------------------------------------------------------
    any       DesiredReceived  waiting   a newer epoch: whatever is under way stops, a bundle on trial goes
                                         back; fetching begins at once, but in quiet hours
                               serving   ... where that very bundle serves for good already
                               trial     ... where it is on trial: the trial begins anew
                               undone    ... with `undo`: the bundle before serves again
                               refused   ... where the name is no name
                               (same)    an epoch that was seen, or an older one: nothing, and it is said
    waiting   TimePassed       fetching  the pause after a broken network is over
    waiting   QuietChanged     fetching  quiet hours are over
    fetching  QuietChanged     waiting   quiet hours begin: what has come stays
    fetching  Described        fetching  the version is above all confirmed ones, or signed as a downgrade
    fetching  Fetched          checking  signature, hashes, memory
    checking  Checked          warming   opened beside the old one, samples answered
    warming   Warmed           trial     new questions go to the new bundle
    fetching  Failed           waiting   where only the network was at fault
    fetching, checking, warming
              Failed           refused
    trial     QuestionEnded    undone    worse than its limits (`health.py`)
    trial     Compared         undone    samples are answered otherwise than before, or questions too slowly
    trial     TimePassed       trial     half of it went by: questions of the node's own, beside the bundle
                                         before, and samples once more
    trial     TimePassed       undone    it is over, and what failed was too little to be sure, but too much
    trial     TimePassed       serving   it is over; the version is confirmed, the bundle before is kept
    any       Started          refused   two ends without a close while it was checked or warmed
                               undone    two ends without a close while it was on trial
    any       CouldNotOpen     undone    the bundle on trial, or the one that served, cannot be opened

`waiting` to `warming` survive a restart by beginning with `fetching` again, which finds what is there; a trial begins
anew. `State.record` is what must be on disk before any effect is carried out: with that, power may go at any instant.
Knows nothing of disks, networks or threads, nor whether a bundle is good.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from edge_agent.deploy import events, health
from edge_agent.deploy.events import Effect, Event
from edge_agent.deploy.record import Placed, Slot, folder_name
from edge_agent.deploy.state import State, bundle_before, changed, folder_of, in_phase, one_line, seen_before, with_slot
from edge_agent.deploy.versions import highest_confirmed, version_fault
from hub import wire

MOST_FAULTS: Final = 2  # ends without a close, then a bundle is not tried again
FIRST_RETRY_S: Final = 15.0  # after the fetcher has given up for now
LONGEST_RETRY_S: Final = 600.0
_MOST_BUNDLES: Final = 16  # of which answers are remembered

Outcome = tuple[State, tuple[Effect, ...]]


def step(state: State, event: Event, now: float) -> Outcome:
    """What `event` makes of `state`. Outcomes of work for another epoch, or in another phase, change nothing."""
    handler = _ALWAYS.get(type(event))
    if handler is None:
        if getattr(event, "epoch", state.record.epoch) != state.record.epoch:
            return state, ()
        handler = _TABLE.get((state.record.phase, type(event)))
    return (state, ()) if handler is None else handler(state, event, now)


# --- a Desired ------------------------------------------------------------------------------------------


def _desired_received(state: State, event: events.DesiredReceived, now: float) -> Outcome:
    desired, epoch = event.desired, state.record.epoch
    if desired.epoch < epoch:
        return changed(state, note=f"a Desired of epoch {desired.epoch} came again after {epoch}, and is ignored"), ()
    if desired.epoch > max(epoch, 0) + wire.MOST_SKIPPED_EPOCHS:
        return changed(
            state, note=f"a Desired of epoch {desired.epoch} after {epoch} skips too many, and is ignored"
        ), ()
    if desired.epoch == epoch:
        other = desired != state.record.desired
        return changed(state, note=f"another Desired of epoch {epoch} is ignored" if other else ""), ()
    if desired.undo:
        return _undo(state, desired, now)
    slot = state.record.slots.get(desired.replaces, Slot())
    if slot.trial is not None and slot.trial.manifest == desired.manifest:
        trial = msgspec.structs.replace(slot.trial, rollout=desired.rollout)
        record = msgspec.structs.replace(state.record, slots=with_slot(state, desired.replaces, trial=trial))
        return _trial_begun(_taken(changed(state, record=record), desired, "trial"), now), ()
    state, effects = _abandoned(state)
    if _serves(state, desired):
        taken = _taken(state, desired, "serving")
        return taken, (*effects, events.Tidy(taken.record.kept()))
    if folder_name(desired.bundle, desired.version, desired.manifest) is None:
        return _refused(_taken(state, desired, "waiting"), f"{desired.bundle[:80]!r} is no name of a bundle", effects)
    return _begun(_taken(state, desired, "waiting"), now, effects)


def _undo(state: State, desired: wire.Desired, now: float) -> Outcome:
    """The bundle before this rollout serves again, if this rollout's bundle is here and the one before still is."""
    last = state.record
    state, effects = _abandoned(state)
    slot = state.record.slots.get(desired.replaces, Slot())
    current, previous = slot.current, slot.previous
    why = f"undone by the hub, rollout {desired.rollout}"
    if current is not None and _is_of(current, desired):
        if previous is None and not current.is_first:
            why = f"{current.bundle} stays: the bundle before it is no longer here"
            return _refused(_taken(state, desired, "refused"), why, effects)
        last_one = None if previous is None else msgspec.structs.replace(previous, is_first=False)  # one step, no more
        slots = with_slot(state, desired.replaces, current=last_one, previous=None)
        highest = {**state.record.highest, current.model: current.above}  # as if it had never been confirmed
        state = changed(state, record=msgspec.structs.replace(state.record, slots=slots, highest=highest))
        folder = None if previous is None else previous.folder
        effects = (*effects, events.GoBack(current.bundle, desired.replaces, folder))
    elif last.desired is not None and last.desired.rollout == desired.rollout and last.phase in ("refused", "undone"):
        why = last.why  # it went back by itself
    taken = _taken(state, desired, "undone", why=why)
    return taken, (*effects, events.Tidy(taken.record.kept()))


def _is_of(placed: Placed, desired: wire.Desired) -> bool:
    return placed.rollout == desired.rollout and placed.manifest == desired.manifest


def _abandoned(state: State) -> Outcome:
    """Without what is under way: a bundle on trial lives no longer than its Desired."""
    phase, desired = state.record.phase, state.record.desired
    if desired is None:
        return state, ()
    if phase in ("fetching", "checking"):
        return state, (events.StopWork(),)
    if phase == "warming":
        return state, (events.StopWork(), events.Release(desired.bundle))
    slot = state.record.slots.get(desired.replaces, Slot())
    if phase == "trial" and slot.trial is not None:
        record = msgspec.structs.replace(state.record, slots=with_slot(state, desired.replaces, trial=None))
        return changed(state, record=record), (_go_back(slot, desired.replaces),)
    return state, ()


def _serves(state: State, desired: wire.Desired) -> bool:
    """Whether that very bundle serves already for good."""
    current = state.record.slots.get(desired.replaces, Slot()).current
    if current is not None:
        return current.manifest == desired.manifest
    return any(one.model == desired.replaces and one.manifest == desired.manifest for one in state.fixed)


# --- from waiting to trial ------------------------------------------------------------------------------


def _begun(state: State, now: float, effects: tuple[Effect, ...] = ()) -> Outcome:
    """Fetching, if it may be; `waiting` otherwise."""
    desired = state.record.desired
    if not state.is_up or desired is None or now < state.retry_at:
        return state, effects
    if state.is_quiet:
        return in_phase(state, "waiting", why="quiet hours"), effects
    return in_phase(changed(state, progress=0.0), "fetching"), (*effects, events.Describe(desired, folder_of(desired)))


def _described(state: State, event: events.Described, now: float) -> Outcome:
    if fault := version_fault(state, event.facts):
        return _refused(state, fault)
    desired = state.record.desired
    assert desired is not None
    return state, (events.Fetch(desired, folder_of(desired)),)


def _fetched(state: State, event: events.Fetched, now: float) -> Outcome:
    desired = state.record.desired
    assert desired is not None
    check = events.Check(desired.epoch, folder_of(desired))
    return in_phase(changed(state, progress=0.0, tries=0), "checking"), (check,)


def _checked(state: State, event: events.Checked, now: float) -> Outcome:
    if fault := version_fault(state, event.facts):  # now by what was signed
        return _refused(state, fault)
    desired = state.record.desired
    assert desired is not None
    return in_phase(changed(state, facts=event.facts), "warming"), (events.Warm(desired.epoch, folder_of(desired)),)


def _warmed(state: State, event: events.Warmed, now: float) -> Outcome:
    desired, facts = state.record.desired, state.facts
    assert desired is not None
    assert facts is not None
    placed = Placed(
        bundle=facts.bundle,
        version=facts.version,
        manifest=desired.manifest,
        model=facts.model,
        folder=folder_of(desired),
        rollout=desired.rollout,
        is_first=state.record.slots.get(desired.replaces, Slot()).current is None,
    )
    slots = with_slot(state, desired.replaces, trial=placed)
    record = msgspec.structs.replace(state.record, phase="trial", why="", slots=slots, faults=0)
    return _trial_begun(changed(state, record=record), now), (events.Switch(placed.bundle, desired.replaces),)


def _work_failed(state: State, event: events.Failed, now: float) -> Outcome:
    if state.record.phase == "warming" and state.record.desired is not None:
        return _refused(state, event.why, (events.Release(state.record.desired.bundle),))
    if not event.may_later or state.record.phase != "fetching":
        return _refused(state, event.why)
    pause_s = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** min(state.tries, 10))
    later = changed(state, retry_at=now + pause_s, tries=state.tries + 1)
    return in_phase(later, "waiting", why=f"{event.why}; next try in {pause_s:.0f} s"), ()


def _refused(state: State, why: str, effects: tuple[Effect, ...] = ()) -> Outcome:
    return in_phase(state, "refused", why=why), (*effects, events.Tidy(state.record.kept()))


def _progressed(state: State, event: events.Progressed, now: float) -> Outcome:
    return changed(state, fetched_bytes=event.fetched_bytes, progress=event.progress), ()


def _quiet_changed(state: State, event: events.QuietChanged, now: float) -> Outcome:
    state = changed(state, is_quiet=event.is_quiet)
    if state.record.phase == "fetching" and event.is_quiet:
        return in_phase(state, "waiting", why="quiet hours"), (events.StopWork(),)
    return _begun(state, now) if state.record.phase == "waiting" and state.record.desired else (state, ())


def _waited(state: State, event: events.TimePassed, now: float) -> Outcome:
    return (state, ()) if state.record.desired is None or state.is_quiet else _begun(state, now)


# --- the trial ------------------------------------------------------------------------------------------


def _trial_begun(state: State, now: float) -> State:
    return changed(state, seen=health.Seen(), trial_since=now, compared=False, comparing=False, progress=0.0)


def _question_ended(state: State, event: events.QuestionEnded, now: float) -> Outcome:
    desired = state.record.desired
    trial = None if desired is None else state.record.slots.get(desired.replaces, Slot()).trial
    if desired is None or trial is None or event.bundle != trial.bundle:
        old = state.others.get(event.bundle, health.Seen())
        others = {bundle: seen for bundle, seen in state.others.items() if bundle != event.bundle}
        while len(others) >= _MOST_BUNDLES:
            others.pop(next(iter(others)))
        others[event.bundle] = old.after(event.failed, event.predicted_ms, event.actual_ms, event.beside)
        return changed(state, others=others), ()
    state = changed(state, seen=state.seen.after(event.failed, event.predicted_ms, event.actual_ms, event.beside))
    why = health.worse(state.seen, seen_before(state), desired.trial)
    return (state, ()) if why is None else _undone(state, why)


def _compared(state: State, event: events.Compared, now: float) -> Outcome:
    desired = state.record.desired
    assert desired is not None
    if event.why is not None:
        return _undone(state, event.why)
    timed = health.Seen(ratios=tuple(map(health.Ratio, event.ratios)))
    why = health.worse(timed, health.Seen(), desired.trial)
    return (changed(state, comparing=False), ()) if why is None else _undone(state, why)


def _trial_failed(state: State, event: events.Failed, now: float) -> Outcome:
    return _undone(state, event.why)


def _tried(state: State, event: events.TimePassed, now: float) -> Outcome:
    desired = state.record.desired
    assert desired is not None
    slot, passed_s = state.record.slots.get(desired.replaces, Slot()), now - state.trial_since
    if not state.is_up or slot.trial is None:
        return state, ()
    state = changed(state, progress=min(max(passed_s / desired.trial.seconds, 0.0), 1.0))
    idle = not state.seen.answered and not state.seen.failed
    before = bundle_before(state)
    before = None if before == slot.trial.bundle else before  # the same content, signed anew
    if (idle or before is not None) and not state.compared and 2 * passed_s >= desired.trial.seconds:
        comparing = changed(state, compared=True, comparing=True)
        return comparing, (events.Compare(desired.epoch, slot.trial.bundle, before),)
    if state.comparing or passed_s < desired.trial.seconds:
        return state, ()
    if (why := health.unproven(state.seen, seen_before(state), desired.trial)) is not None:
        return _undone(state, why)
    return _confirmed(state, desired, slot.trial, slot)


def _confirmed(state: State, desired: wire.Desired, trial: Placed, slot: Slot) -> Outcome:
    before = highest_confirmed(state, trial.model)
    confirmed = msgspec.structs.replace(trial, above=before)
    slots = with_slot(state, desired.replaces, trial=None, current=confirmed, previous=slot.current)
    highest = {**state.record.highest, trial.model: max(before, trial.version)}
    record = msgspec.structs.replace(state.record, phase="serving", why="", slots=slots, highest=highest)
    settle = events.Settle(trial.bundle, desired.replaces)
    return changed(state, record=record), (settle, events.Tidy(record.kept()))


def _undone(state: State, why: str) -> Outcome:
    """Back to the bundle before, as far as that is still to be done."""
    desired = state.record.desired
    assert desired is not None
    slot = state.record.slots.get(desired.replaces, Slot())
    slots = with_slot(state, desired.replaces, trial=None)
    record = msgspec.structs.replace(state.record, phase="undone", why=one_line(why), slots=slots)
    back: tuple[Effect, ...] = (_go_back(slot, desired.replaces),) if slot.trial is not None and state.is_up else ()
    return changed(state, record=record, comparing=False), (*back, events.Tidy(record.kept()))


def _go_back(slot: Slot, replaces: str) -> events.GoBack:
    assert slot.trial is not None
    return events.GoBack(slot.trial.bundle, replaces, None if slot.current is None else slot.current.folder)


# --- a process ------------------------------------------------------------------------------------------


def _started(state: State, event: events.Started, now: float) -> Outcome:
    """Count the end of the process before, if it was none in good order."""
    record = state.record
    tried = record.desired is not None and record.phase in ("checking", "warming", "trial")
    faults = record.faults + (1 if record.is_open and tried else 0)
    state = changed(state, record=msgspec.structs.replace(record, is_open=True, faults=faults))
    if not tried or faults < MOST_FAULTS:
        return state, ()
    doing = {"checking": "was checked", "warming": "was opened"}.get(record.phase, "was on trial")
    why = f"this process ended {faults} times without a close while the bundle {doing}"
    return _undone(state, why) if record.phase == "trial" else _refused(state, why)


def _could_not_open(state: State, event: events.CouldNotOpen, now: float) -> Outcome:
    slot = state.record.slots.get(event.replaces, Slot())
    if slot.serving is None:
        return state, ()
    why = f"{slot.serving.bundle} cannot be opened: {event.why}"
    if slot.trial is not None:
        return _undone(state, why)
    slots = with_slot(state, event.replaces, current=slot.previous, previous=None)
    record = msgspec.structs.replace(state.record, slots=slots)
    mine = record.desired is not None and record.phase == "serving" and record.desired.replaces == event.replaces
    if mine:
        record = msgspec.structs.replace(record, phase="undone", why=one_line(why))
    return changed(state, record=record, note="" if mine else why), ()


def _resumed(state: State, event: events.Resumed, now: float) -> Outcome:
    state, record = changed(state, is_up=True), state.record
    if record.desired is None or record.phase in ("serving", "refused", "undone"):
        return state, (events.Tidy(record.kept()),)
    if record.phase == "trial":
        return _trial_begun(state, now), (events.Tidy(record.kept()),)
    return _begun(state, now)


def _closed(state: State, event: events.Closed, now: float) -> Outcome:
    record = msgspec.structs.replace(state.record, is_open=state.record.is_open and not event.in_order)
    return changed(state, record=record, is_up=False), (events.StopWork(),)


# --- the table ------------------------------------------------------------------------------------------

_Handler = Callable[[State, Any, float], Outcome]

_ALWAYS: Final[dict[type, _Handler]] = {
    events.Started: _started,
    events.CouldNotOpen: _could_not_open,
    events.Resumed: _resumed,
    events.Closed: _closed,
    events.DesiredReceived: _desired_received,
    events.QuietChanged: _quiet_changed,
    events.QuestionEnded: _question_ended,
}
_TABLE: Final[dict[tuple[wire.Phase, type], _Handler]] = {
    ("waiting", events.TimePassed): _waited,
    ("fetching", events.Progressed): _progressed,
    ("fetching", events.Described): _described,
    ("fetching", events.Fetched): _fetched,
    ("fetching", events.Failed): _work_failed,
    ("checking", events.Checked): _checked,
    ("checking", events.Failed): _work_failed,
    ("warming", events.Warmed): _warmed,
    ("warming", events.Failed): _work_failed,
    ("trial", events.Failed): _trial_failed,
    ("trial", events.Compared): _compared,
    ("trial", events.TimePassed): _tried,
}


def _taken(state: State, desired: wire.Desired, phase: wire.Phase, *, why: str = "") -> State:
    """With a newer Desired, and nothing of the one before but what is placed."""
    record = msgspec.structs.replace(state.record, desired=desired, phase=phase, why=one_line(why), faults=0)
    return State(record=record, fixed=state.fixed, is_up=state.is_up, is_quiet=state.is_quiet, others=state.others)
