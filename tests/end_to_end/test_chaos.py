"""The fault run judges rightly, and a short one finds nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.faults import schedule
from benchmarks.faults.checker import check
from benchmarks.faults.history import Asked, Died, Down, Ended, Heard, History, Hit, Replayed
from tests.end_to_end.seed import SEED

ROOT = Path(__file__).resolve().parents[2]

ASKED = Asked(device="a", id="1", at_s=10.0, deadline_s=20.0, text="one")
ANSWERED = Ended(device="a", id="1", at_s=10.5, code="answered", text="one", node="n")
HEARD = Heard(device="a", id="1", at_s=10.4, code="answered", node="n")
FAILED = Ended(device="a", id="1", at_s=19.0, code="no_node")


def history(**changes: Any) -> History:
    """One question that was answered while everything was up, but for `changes`."""
    kept = History(
        seed=1,
        start_s=0.0,
        end_s=60.0,
        hubs=("h",),
        nodes=("n", "m"),
        asked=(ASKED,),
        ended=(ANSWERED,),
        heard=(HEARD,),
    )
    return msgspec.structs.replace(kept, **changes)


def down(party: str, from_s: float, to_s: float) -> Down:
    return Down(party=party, from_s=from_s, to_s=to_s)


def broken(**changes: Any) -> set[str]:
    """The promises that were broken."""
    return {violation.promise for violation in check(history(**changes)).violations}


def test_nothing_is_wrong() -> None:
    """A question that was answered, on its own topic, with its own text, is as it should be."""
    verdict = check(history())
    assert (verdict.violations, verdict.answered, verdict.owed, verdict.share) == ((), 1, 1, 1.0)


@pytest.mark.parametrize(
    "ended",
    [
        (),
        (ANSWERED, ANSWERED),
        (ANSWERED, FAILED),
        (msgspec.structs.replace(ANSWERED, at_s=21.5),),
        (ANSWERED, msgspec.structs.replace(ANSWERED, id="2")),
    ],
    ids=["none", "twice", "both", "late", "not asked"],
)
def test_not_one_outcome(ended: tuple[Ended, ...]) -> None:
    """No outcome, two of them, one behind the deadline, and one that nobody asked for are found."""
    assert "one outcome" in broken(ended=ended)


def test_late_because_the_machine_stood_still() -> None:
    """An outcome may be late by as long as the whole machine stood still after the deadline."""
    late = (msgspec.structs.replace(ANSWERED, at_s=23.0),)
    assert broken(ended=late, down=(down("machine", 20.0, 22.5),)) == set()
    assert broken(ended=late, down=(down("machine", 17.0, 20.0),)) == {"one outcome"}


@pytest.mark.parametrize(
    ("party", "from_s", "to_s", "owed"),
    [
        ("broker", 0.0, 14.9, True),
        ("broker", 0.0, 15.1, False),
        ("broker", 14.9, 15.1, False),
        ("h", 14.9, 15.1, False),
        ("a", 14.9, 15.1, False),
        ("machine", 14.9, 15.1, False),
        ("n", 0.0, 60.0, True),
        ("b", 0.0, 60.0, True),
    ],
)
def test_an_answer_is_owed(party: str, from_s: float, to_s: float, owed: bool) -> None:
    """With 5 s in a row of broker, hub, its own link and any one node, a question must be answered."""
    verdict = check(history(ended=(FAILED,), heard=(), down=(down(party, from_s, to_s),)))
    assert verdict.owed == owed
    assert ("answered" in {violation.promise for violation in verdict.violations}) == owed


def test_the_same_node_for_five_seconds() -> None:
    """Two nodes that are up for 4 s each, one after the other, owe nothing; both for 6 s do."""
    four = (down("n", 14.0, 60.0), down("m", 0.0, 14.0), down("m", 18.0, 60.0))
    assert "answered" not in broken(ended=(FAILED,), down=four)
    six = (down("n", 16.0, 60.0), down("m", 0.0, 14.0))
    assert "answered" in broken(ended=(FAILED,), down=six)


def test_somebody_elses_answer() -> None:
    """Another question's text, another device's topic, and chunks of something else are found."""
    assert broken(ended=(msgspec.structs.replace(ANSWERED, text="two"),)) == {"its own"}
    assert broken(heard=(msgspec.structs.replace(HEARD, device="b"),)) == {"its own"}
    assert broken(ended=(msgspec.structs.replace(ANSWERED, shown="oe"),)) == {"its own"}
    assert broken(ended=(msgspec.structs.replace(ANSWERED, shown="on"),)) == set()


def test_an_answer_after_a_failure() -> None:
    """Heard in this order it is a violation, unless a fault or a stranger explains it; the other order is none."""
    failure = Heard(device="a", id="1", at_s=10.0, code="deadline")
    promise = "nothing after a failure"
    assert broken(heard=(failure, HEARD)) == {promise}
    assert broken(heard=(HEARD, failure)) == set()
    assert broken(heard=(msgspec.structs.replace(failure, replayed=True), HEARD)) == set()
    assert broken(heard=(failure, HEARD), replayed=(Replayed(device="a", id="1", at_s=10.2, what="work"),)) == set()
    assert broken(heard=(failure, HEARD), replayed=(Replayed(device="a", id="1", at_s=10.5, what="work"),)) == {promise}
    assert broken(heard=(failure, HEARD), hits=(Hit(kind="hold-link", party="n", from_s=9.0, to_s=10.3),)) == set()
    assert broken(heard=(failure, HEARD), hits=(Hit(kind="hold-link", party="m", from_s=9.0, to_s=10.3),)) == {promise}
    assert broken(heard=(failure, msgspec.structs.replace(HEARD, at_s=10.05))) == set()


def test_an_answer_after_a_failure_of_two_hubs() -> None:
    """Two hubs are an explanation only where one of them was struck while the question was open."""
    failure = Heard(device="a", id="1", at_s=17.0, code="deadline")
    late = msgspec.structs.replace(HEARD, at_s=18.0)
    ended = (msgspec.structs.replace(ANSWERED, code="deadline", at_s=17.0),)
    asked = (msgspec.structs.replace(ASKED, deadline_s=14.0),)
    both = {"asked": asked, "ended": ended, "heard": (failure, late), "hubs": ("h", "h-2"), "end_s": 60.0}
    promise = "nothing after a failure"
    assert promise in broken(**both)
    assert promise not in broken(**both, hits=(Hit(kind="stop-hub", party="h-2", from_s=11.0, to_s=14.0),))
    assert promise in broken(**both, hits=(Hit(kind="stop-hub", party="h-2", from_s=1.0, to_s=9.9),))
    assert promise in broken(**both, hits=(Hit(kind="stop-node", party="m", from_s=11.0, to_s=14.0),))


def test_a_model_answers_in_its_own_words() -> None:
    """What a real node says is not compared; what a no-op node says beside it is, where it is known whose it is."""
    other = msgspec.structs.replace(ANSWERED, text="two")
    assert broken(ended=(other,), real=("n",)) == set()
    assert broken(ended=(other,), real=("m",)) == {"its own"}
    assert broken(ended=(msgspec.structs.replace(other, node=None),), real=("m",)) == set()
    assert broken(ended=(msgspec.structs.replace(ANSWERED, shown="oe"),), real=("n",)) == {"its own"}


def test_a_model_beside_others_owes_nothing() -> None:
    """Nobody knows how long it takes, so it does not count as the node that must answer, unless there is no other."""
    gone = {"ended": (FAILED,), "heard": (), "down": (down("m", 0.0, 60.0),)}
    assert broken(**gone) == {"answered", "share"}
    assert broken(**gone, real=("n",)) == {"share"}
    assert broken(**gone, real=("n", "m")) == {"answered", "share"}


def test_a_process_that_ended_by_itself() -> None:
    """It is a violation, whatever else went well."""
    assert broken(died=(Died(party="n", at_s=12.0, status=1),)) == {"alive"}


def test_too_few_answers() -> None:
    """Below 98% answers of what the fleet said; what ended by an asker's own timer does not count."""
    asked = [msgspec.structs.replace(ASKED, id=str(number), deadline_s=11.0) for number in range(100)]
    good = [msgspec.structs.replace(ANSWERED, id=str(number)) for number in range(97)]
    bad = [msgspec.structs.replace(FAILED, at_s=10.9, id=str(number)) for number in range(97, 100)]
    assert broken(asked=tuple(asked), ended=(*good, *bad), heard=()) == {"share"}
    own = [msgspec.structs.replace(ended, own_timer=True) for ended in bad]
    assert broken(asked=tuple(asked), ended=(*good, *own), heard=()) == set()


def test_the_same_seed_is_the_same_schedule() -> None:
    """A seed draws the same faults each time, as many as were asked for, of every kind, two of no party at once."""
    parties = {"hubs": ["h"], "nodes": ["n", "m"], "devices": ["a", "b"]}
    drawn = schedule.draw(SEED, seconds=100.0, faults=40, **parties)  # type: ignore[arg-type]
    assert drawn == schedule.draw(SEED, seconds=100.0, faults=40, **parties)  # type: ignore[arg-type]
    assert len(drawn) == 40
    assert {fault.kind for fault in drawn} == set(schedule.KINDS), f"seed {SEED}"
    ends: dict[str, float] = {}
    for fault in drawn:
        assert fault.at_s >= ends.get(fault.party, 0.0), f"seed {SEED}"
        ends[fault.party] = fault.at_s + fault.duration_s


def test_all_hubs_die_at_once() -> None:
    """With several hubs each schedule kills all of them at the same moment; one hub alone is struck as ever."""
    parties = {"nodes": ["n", "m"], "devices": ["a", "b"]}
    for seed in (SEED, 1, 2, 3):
        drawn = schedule.draw(seed, seconds=100.0, faults=40, hubs=["h", "h-2", "h-3"], **parties)  # type: ignore[arg-type]
        at_s: dict[float, set[str]] = {}
        for fault in drawn:
            if fault.kind == "kill-hub":
                at_s.setdefault(fault.at_s, set()).add(fault.party)
        assert {"h", "h-2", "h-3"} in at_s.values(), f"seed {seed}"


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.parametrize(("seed", "hubs"), [(1, 1), (SEED, 1), (SEED, 3)])
def test_a_short_run_breaks_no_promise(seed: int, hubs: int, tmp_path: Path) -> None:
    """Real processes, 300 questions and 16 faults of all kinds: each question ends as it should."""
    command = [sys.executable, "benchmarks/chaos.py", "--seconds", "40", "--questions", "300", "--faults", "16"]
    command += ["--seed", str(seed), "--hubs", str(hubs), "--history", str(tmp_path / "history.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, f"seed {seed}:\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    document = json.loads(done.stdout.splitlines()[-1])
    assert (document["questions"], document["violations"]) == (300, 0)
    assert document["faults"] >= 12
