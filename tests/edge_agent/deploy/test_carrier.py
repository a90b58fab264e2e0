"""A deployment is carried out to its end, and sudden death at any instant leaves a whole bundle and the way on."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edge_agent.deploy import events
from edge_agent.deploy.carrier import TIMES, memory_fault
from edge_agent.deploy.disk import Disk
from edge_agent.deploy.record import Slot
from edge_agent.errors import RuntimeUnavailable
from edge_agent.samples import SamplesScore
from tests.conftest import ROOT
from tests.edge_agent.deploy.lossy_disk import Killed, KillingDisk, QuickDisk, RecordingDisk, Tree, write_tree
from tests.edge_agent.deploy.small_bundles import DictFetcher, Node, check, desired_of, small

V1, V2, V3, V4 = (small(version) for version in (1, 2, 3, 4))


@pytest.fixture
def fixed(tmp_path: Path) -> Path:
    return V1.write(tmp_path / "fixed")


def test_a_bundle_that_is_slower_than_the_one_before_goes_back(tmp_path: Path, fixed: Path) -> None:
    """Nobody asks it: the node times both."""
    node = Node(tmp_path / "d", DictFetcher(V2), fixed=[fixed])
    node.host.ratio = 2.0
    node.deploy(desired_of(V2, 1))
    assert node.phase == "undone"
    assert "100% longer than predicted" in node.why


def test_a_bundle_comes_and_only_what_is_new_travels(tmp_path: Path, fixed: Path) -> None:
    """Warmed, switched to, tried, settled; the tokenizer that the fixed bundle has is not fetched."""
    fetcher = DictFetcher(V2)
    node = Node(tmp_path / "d", fetcher, fixed=[fixed])
    node.deploy(desired_of(V2, 1))
    assert node.phase == "serving"
    assert [call[0] for call in node.host.calls] == ["warm", "switch", "compare", *["time"] * TIMES, "settle"]
    assert node.host.serving == {"tiny": V2.id}
    weights = V2.manifest.files[0].sha256
    assert fetcher.fetched == [V2.sha256, weights]
    assert node.host.reports[-1].phase == "serving"
    assert [one.phase for one in node.host.reports[:2]] == ["fetching", "fetching"]
    assert {one.phase for one in node.host.reports} == {"fetching", "checking", "warming", "trial", "serving"}
    assert max(one.fetched_bytes for one in node.host.reports) == len(V2.payload) + len(V2.blobs[weights])
    assert list((tmp_path / "d" / "incoming").iterdir()) == []


def test_the_bundle_before_is_kept_and_the_one_before_that_is_not(tmp_path: Path, fixed: Path) -> None:
    """After three rollouts the last two are on disk."""
    node = Node(tmp_path / "d", DictFetcher(V2, V3, V4), fixed=[fixed])
    for epoch, bundle in enumerate((V2, V3, V4), start=1):
        node.deploy(desired_of(bundle, epoch))
        assert node.phase == "serving"
    assert [one.split("-v")[-1][0] for one in node.folders] == ["3", "4"]
    node.close()
    again = Node(tmp_path / "d", DictFetcher(), fixed=[fixed])
    assert again.host.serving == {"tiny": V4.id}
    again.close()


@pytest.mark.parametrize(
    ("free", "why"),
    [(None, None), (1000, None), (999, "about 1000 bytes of memory are needed beside what runs, 999 are free")],
)
def test_memory_is_asked_for_with_figures(free: int | None, why: str | None) -> None:
    """A bundle that does not fit is refused, one of a machine that does not say is tried."""
    assert memory_fault(1000, free) == why


def test_other_samples_refuse_before_the_switch(tmp_path: Path, fixed: Path) -> None:
    """The warmed answerer is closed again, the folder removed, and the old one never stopped."""
    node = Node(tmp_path / "d", DictFetcher(V2), fixed=[fixed])
    node.host.score = SamplesScore(samples=1, tokens=10, equal=1, agreement=10.0)
    node.deploy(desired_of(V2, 1))
    assert node.phase == "refused"
    assert "1 of 10 tokens equal" in node.why
    assert [call[0] for call in node.host.calls] == ["warm", "release"]
    assert node.host.open == {V1.id}
    assert node.folders == []


def test_a_warming_that_fails_is_a_refusal(tmp_path: Path, fixed: Path) -> None:
    """Also by what is no AgentError: the node goes on."""
    node = Node(tmp_path / "d", DictFetcher(V2), fixed=[fixed])
    node.host.score = RuntimeUnavailable("no such operator")
    node.deploy(desired_of(V2, 1))
    assert (node.phase, node.why) == ("refused", "no such operator")


def test_a_switch_that_fails_goes_back(tmp_path: Path, fixed: Path) -> None:
    """The service could not take it: the record and the service both have the old one."""
    node = Node(tmp_path / "d", DictFetcher(V2), fixed=[fixed])
    node.host.open.clear()

    def refuses(bundle: str, replaces: str) -> None:
        raise RuntimeUnavailable("the inference thread is gone")

    node.host.switch = refuses  # type: ignore[method-assign]
    node.host.serving["tiny"] = V2.id  # it got half way
    node.deploy(desired_of(V2, 1))
    assert (node.phase, node.why) == ("undone", "cannot be switched to: the inference thread is gone")
    assert node.host.serving == {"tiny": V1.id}


def test_a_way_back_that_fails_is_told(tmp_path: Path, fixed: Path) -> None:
    """Who reads the state would take the bundle for gone, while it answers."""
    node = Node(tmp_path / "d", DictFetcher(V2), fixed=[fixed])
    node.take(events.Resumed(), events.DesiredReceived(desired_of(V2, 1)))

    def fails(bundle: str, replaces: str, to: Path | None) -> None:
        raise RuntimeUnavailable("no memory")

    node.host.go_back = fails  # type: ignore[method-assign]
    node.take(events.DesiredReceived(desired_of(V2, 2, undo=True)))
    assert node.phase == "undone"
    assert node.host.reports[-1].why.endswith(f"but {V2.id} still serves, until a restart: no memory")


def test_samples_that_change_during_an_idle_trial_undo_it(tmp_path: Path, fixed: Path) -> None:
    """Nobody asks, so after half the trial the samples are answered again."""
    node = Node(tmp_path / "d", DictFetcher(V2), fixed=[fixed])
    node.take(events.Resumed(), events.DesiredReceived(desired_of(V2, 1)))
    assert node.phase == "trial"
    node.host.score = SamplesScore(samples=1, cosine=0.5, least_cosine=0.5)
    node.pass_time(31.0)
    assert node.phase == "undone"
    assert "mean cosine of 0.500" in node.why
    assert node.host.serving == {"tiny": V1.id}


def test_a_service_that_cannot_be_told_holds_up_nothing(tmp_path: Path, fixed: Path) -> None:
    """The state is not published; the bundle comes all the same."""
    node = Node(tmp_path / "d", DictFetcher(V2), fixed=[fixed])

    def breaks(deployment: object) -> None:
        raise ZeroDivisionError

    node.host.report = breaks  # type: ignore[method-assign]
    node.deploy(desired_of(V2, 1))
    assert node.phase == "serving"


def test_a_full_disk_refuses_with_figures(tmp_path: Path, fixed: Path) -> None:
    """What is needed, what is to spare, what is free."""
    node = Node(tmp_path / "d", DictFetcher(V2), fixed=[fixed])
    node.shelf._margin_bytes = 1 << 60
    node.deploy(desired_of(V2, 1))
    assert node.phase == "refused"
    assert "are needed on the disk of" in node.why
    assert f"{1 << 60} to spare" in node.why


def test_a_network_that_is_away_only_delays(tmp_path: Path, fixed: Path) -> None:
    """It waits, says so, and goes on when the blobs are there."""
    fetcher = DictFetcher()
    node = Node(tmp_path / "d", fetcher, fixed=[fixed])
    node.take(events.Resumed(), events.DesiredReceived(desired_of(V2, 1)))
    assert node.phase == "waiting"
    assert node.why == "nobody answers; next try in 15 s"
    fetcher.blobs = V2.blobs
    node.pass_time(14.0)
    assert node.phase == "waiting"
    node.pass_time(1.0)
    assert node.phase == "trial"


def test_a_bundle_that_is_another_than_desired_says(tmp_path: Path, fixed: Path) -> None:
    """The manifest that the digest names decides, whatever the Desired says of version and id."""
    node = Node(tmp_path / "d", DictFetcher(V2), fixed=[fixed])
    node.deploy(desired_of(V2, 1, version=9))
    assert node.phase == "refused"
    assert "version 2, and" in node.why


def test_a_damaged_file_of_another_bundle_is_fetched(tmp_path: Path, fixed: Path) -> None:
    """What a bundle here says that it has is hashed again before it is taken."""
    (fixed / "tokenizer/tokenizer.json").write_bytes(b"[]")
    fetcher = DictFetcher(V2)
    with pytest.raises(Exception, match="is not what it should be"):
        Node(tmp_path / "d", fetcher, fixed=[fixed])
    shared = small(7, weights=b"x" * 64)
    node = Node(tmp_path / "d", DictFetcher(shared, V2))
    node.deploy(desired_of(shared, 1))
    (node.shelf.folder(node.folders[0]) / "tokenizer/tokenizer.json").write_bytes(b"[]")
    newer = small(8)
    fetcher = DictFetcher(newer)
    node.carrier._fetcher = fetcher
    node.deploy(desired_of(newer, 2))
    assert node.phase == "serving"
    assert newer.manifest.files[1].sha256 in fetcher.fetched


def test_a_record_that_cannot_be_written_begins_nothing_and_holds_up_no_way_back(
    tmp_path: Path, fixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a record no switch; with a bundle on trial that fails, back all the same."""
    node = Node(tmp_path / "d", DictFetcher(V2, V3), fixed=[fixed])

    def full(record: object) -> None:
        raise OSError(28, "No space left on device")

    node.take(events.Resumed(), events.DesiredReceived(desired_of(V2, 1)))
    assert node.phase == "trial"
    monkeypatch.setattr(node.shelf, "save", full)
    for _ in range(2):
        node.take(events.QuestionEnded(V2.id, True, 1.0, 1.0))
    assert node.phase == "undone"
    assert node.host.serving == {"tiny": V1.id}
    node.take(events.DesiredReceived(desired_of(V3, 2)))
    assert node.phase == "undone"
    monkeypatch.undo()
    node.take(events.DesiredReceived(desired_of(V3, 2)))
    assert node.phase == "trial"


# --- sudden death ---------------------------------------------------------------------------------------
#
# The node before: version 2 serves, version 1 is kept, version 3 is desired. Its rollout has every change of the disk:
# manifest and weights fetched, the tokenizer copied, a folder assembled, records, folders renamed away and removed.
# A fresh node has version 1 from its start, and no deployed bundle.

GOOD, BAD_WARM, BAD_TRIAL, FRESH, NO_LINKS = "good", "cannot be warmed", "fails its questions", "fresh", "no links"
SAME_UNTIL = 40  # operations: until then a bundle that turns out bad is like a good one


class Ground(msgspec.Struct, frozen=True):
    """The directory of that node, closed, and the fixed bundle; not to be changed."""

    root: Path
    fixed: Path

    def node(self, root: Path, story: str, disk: Disk) -> Node:
        return Node(root, DictFetcher(V3), fixed=[self.fixed] if story == FRESH else [], disk=disk)

    def copy(self, root: Path, story: str) -> None:
        if story == FRESH:
            root.mkdir()
        else:
            shutil.copytree(self.root, root)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    folder = tmp_path_factory.mktemp("ground")
    node = Node(folder / "d", DictFetcher(V1, V2), disk=QuickDisk())
    for epoch, bundle in enumerate((V1, V2), start=1):
        node.deploy(desired_of(bundle, epoch))
    assert len(node.folders) == 2
    node.close()
    (folder / "d" / "lock").unlink()
    return Ground(folder / "d", V1.write(folder / "fixed"))


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory where there is such a thing: thousands of directories are made and removed."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="edgefleet-test-", dir=place) as folder:
        yield Path(folder)


class DeadlyDisk(KillingDisk):
    """Sends the signal that nobody can catch."""

    def _next(self) -> None:
        if self.done >= self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        self.done += 1

    def sync(self, handle: int) -> None:
        super().sync(handle)
        os.fsync(handle)


class WithoutLinks(RecordingDisk):
    """As FAT and some network file systems are."""

    def link(self, old: Path, new: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")


def roll_out(node: Node, story: str) -> None:
    """Deliver the retained Desired of version 3, as each reconnect does, and let time pass and questions come."""
    node.host.bad = {V3.id} if story == BAD_WARM else set()
    node.take(events.Resumed(), events.DesiredReceived(desired_of(V3, 3)))
    if story == BAD_TRIAL and node.phase == "trial":
        node.take(*[events.QuestionEnded(V3.id, True, 1.0, 1.0)] * 3)
    for _ in range(3):
        node.pass_time(60.0)


def starts_whole(node: Node) -> None:
    """What has the name of a bundle is one, and the node serves the old or the new one."""
    for folder in node.shelf.bundles.iterdir():
        check(folder)
    (served,) = node.host.serving.values()
    assert served in (V1.id if node.host.fixed else V2.id, V3.id)
    slot = node.carrier.state.record.slots.get("tiny", Slot())
    if slot.serving is not None:
        assert check(node.shelf.folder(slot.serving.folder)).manifest.bundle_id == served


def ends_well(node: Node, story: str) -> None:
    """It serves what it should, keeps the bundle before, and nothing else is left."""
    record, good = node.carrier.state.record, story in (GOOD, FRESH, NO_LINKS)
    slot = record.slots["tiny"]
    assert node.host.serving == {"tiny": V3.id if good else V2.id}
    assert node.phase == ("serving" if good else "undone" if story == BAD_TRIAL else "refused")
    assert record.highest["tiny"] == (3 if good else 2)
    assert node.folders == sorted(one.folder for one in (slot.current, slot.previous) if one is not None)
    assert len(node.folders) == (1 if story == FRESH else 2)
    assert not list(node.shelf.incoming.iterdir())
    assert sorted(path.name for path in node.shelf.root.iterdir()) == ["bundles", "incoming", "lock", "record.json"]


@pytest.mark.slow
@pytest.mark.parametrize("story", [GOOD, BAD_WARM, BAD_TRIAL, FRESH])
def test_killed_at_every_operation_it_starts_with_a_whole_bundle_and_gets_there(
    memory: Path, ground: Ground, story: str
) -> None:
    """Before each operation in turn, and in the middle of each write; then a start, and the same Desired again."""
    for point in itertools.count(0 if story in (GOOD, FRESH) else SAME_UNTIL):
        root, node = memory / str(point), None
        ground.copy(root, story)
        try:
            node = ground.node(root, story, KillingDisk(point))
            roll_out(node, story)
        except Killed:
            pass
        else:
            ends_well(node, story)
            break
        finally:
            if node is not None:
                node.die()
        after = ground.node(root, story, QuickDisk())
        starts_whole(after)
        roll_out(after, story)
        ends_well(after, story)
        after.close()
        shutil.rmtree(root)
    assert point > 40


@pytest.mark.parametrize("point", [3, 25, 50, 75])
def test_a_real_process_is_killed_and_the_next_one_gets_there(memory: Path, ground: Ground, point: int) -> None:
    """SIGKILL in the middle of the rollout; the lock is free at once, and nothing is asked of anybody."""
    ground.copy(memory / "d", GOOD)
    script = (
        "import sys; from pathlib import Path; from tests.edge_agent.deploy import test_carrier as t\n"
        "node = t.Node(Path(sys.argv[1]), t.DictFetcher(t.V3), disk=t.DeadlyDisk(int(sys.argv[2])))\n"
        "t.roll_out(node, t.GOOD)"
    )
    command = [sys.executable, "-c", script, str(memory / "d"), str(point)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    after = ground.node(memory / "d", GOOD, QuickDisk())
    starts_whole(after)
    roll_out(after, GOOD)
    ends_well(after, GOOD)
    after.close()


@pytest.mark.slow
@pytest.mark.parametrize("story", [GOOD, BAD_TRIAL, FRESH, NO_LINKS])
def test_a_power_cut_at_every_operation_loses_what_was_not_synced_and_no_more(
    memory: Path, ground: Ground, story: str
) -> None:
    """Unsynced bytes are lost, torn or zeros, unsynced names there or not: a whole bundle serves, and it goes on."""
    root = memory / "d"
    ground.copy(root, story)
    disk = (WithoutLinks if story == NO_LINKS else RecordingDisk)(root)
    node = ground.node(root, story, disk)
    roll_out(node, story)
    ends_well(node, story)
    node.close()
    draw, seen = random.Random(7), set[Tree]()
    for after in range(0 if story != BAD_TRIAL else SAME_UNTIL, len(disk.ops) + 1):
        for tree in disk.power_cuts(after, draw):
            if tree in seen:
                continue
            seen.add(tree)
            left = memory / "left"
            write_tree(tree, left)
            again = ground.node(left, story, QuickDisk())
            starts_whole(again)
            if story != NO_LINKS:  # from there on all is as with links
                roll_out(again, story)
                ends_well(again, story)
            again.close()
            shutil.rmtree(left)
    assert len(seen) > 200, len(seen)


@pytest.mark.parametrize(
    ("phase", "ends_as", "why"),
    [("warming", "refused", "while the bundle was opened"), ("trial", "undone", "while the bundle was on trial")],
)
def test_the_second_crash_ends_it_without_a_network(
    memory: Path, ground: Ground, phase: str, ends_as: str, why: str
) -> None:
    """A runtime that dies of the new bundle takes the process with it: twice, then the old bundle serves for good."""
    ground.copy(memory / "d", GOOD)

    def dies(bundle: object) -> None:
        raise Killed

    for crash in range(2):
        node = Node(memory / "d", DictFetcher(V3), disk=QuickDisk())
        if phase == "warming":
            node.host.warm = dies  # type: ignore[method-assign,assignment]
            with pytest.raises(Killed):
                roll_out(node, GOOD)
        elif crash == 0:
            node.take(events.Resumed(), events.DesiredReceived(desired_of(V3, 3)))
        assert node.phase == phase
        assert node.host.serving == {"tiny": V3.id if phase == "trial" else V2.id}
        node.die()
    node = Node(memory / "d", DictFetcher(), disk=QuickDisk())
    assert node.phase == ends_as
    assert node.why == f"this process ended 2 times without a close {why}"
    assert node.host.serving == {"tiny": V2.id}
    roll_out(node, GOOD)  # the same Desired again
    assert node.phase == ends_as
    assert node.host.reports[-1].why == node.why
    node.close()


def test_a_start_in_good_order_is_no_crash(memory: Path, ground: Ground) -> None:
    """However often the process is restarted during the trial."""
    ground.copy(memory / "d", GOOD)
    node = Node(memory / "d", DictFetcher(V3), disk=QuickDisk())
    node.take(events.Resumed(), events.DesiredReceived(desired_of(V3, 3)))
    for _ in range(3):
        node.close()
        node = Node(memory / "d", DictFetcher(), disk=QuickDisk())
        assert (node.phase, node.host.serving) == ("trial", {"tiny": V3.id})
    node.close()
