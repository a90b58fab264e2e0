"""Two threads carry a deployment from a Desired to a confirmed bundle, and nobody waits for them."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.bundle import Bundle
from edge_agent.deploy.deployer import Deployer
from edge_agent.deploy.fetch import Fetcher
from edge_agent.deploy.quiet_hours import QuietHours
from edge_agent.deploy.shelf import Shelf
from hub import wire
from tests.edge_agent.deploy.blob_server import BlobServer, Silent
from tests.edge_agent.deploy.small_bundles import FakeHost, Small, check, desired_of, small

V1, V2, V3 = (small(version) for version in (1, 2, 3))
Eventually = Callable[..., None]


@pytest.fixture
def server() -> Iterator[BlobServer]:
    one = BlobServer(*V2.blobs.values(), *V3.blobs.values())
    yield one
    one.close()


class Running:
    """A deployer and the service that it works for; its clock stands still unless it is set."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.now = 0.0
        self.time = datetime.time(12, 0)
        fixed = check(V1.write(root / "fixed") if not (root / "fixed").exists() else root / "fixed")
        self.deployer = Deployer(
            Shelf(root / "d", fixed=[fixed.path], margin_bytes=0),
            Fetcher(None, pause=lambda tries, draw: 0.0),
            check,
            fixed=[fixed],
            clock=lambda: self.now,
            local_time=lambda: self.time,
            free_memory=lambda: None,
            **{"tick_s": 0.01, **options},
        )
        serving = {"tiny": V1.id} | {one.replaces: one.bundle for one in self.deployer.bundles_to_open()}
        self.host = FakeHost(serving, fixed={"tiny": V1.id})
        self.deployer.start(self.host)

    def after_seconds(self, seconds: float) -> str:
        """The phase; then so much more time has passed."""
        self.now += seconds
        return self.phase

    @property
    def phase(self) -> str:
        told = self.deployer.deployment
        return "" if told is None else told.phase


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    one = Running(tmp_path)
    yield one
    one.deployer.close()


def wanted(bundle: Small, epoch: int, server: BlobServer) -> wire.Desired:
    return desired_of(bundle, epoch, sources=(server.url,))


def test_a_bundle_comes_serves_and_is_there_after_a_restart(
    tmp_path: Path, running: Running, server: BlobServer, eventually: Eventually
) -> None:
    """From the Desired to the trial without anybody's help; a trial ends by the clock."""
    running.deployer.desired(wanted(V2, 1, server))
    eventually(lambda: running.phase == "trial")
    running.deployer.question_ended(V2.id, False, 10.0, 10.0, 0.0)
    eventually(lambda: running.host.reports[-1].answered == 1)
    eventually(lambda: running.after_seconds(30.0) == "serving")
    running.deployer.close()
    again = Running(tmp_path)
    assert again.host.serving == {"tiny": V2.id}
    again.deployer.close()


def test_a_bundle_that_fails_goes_back_at_once(running: Running, server: BlobServer, eventually: Eventually) -> None:
    """No clock has to move, and no network has to be there."""
    running.deployer.desired(wanted(V2, 1, server))
    eventually(lambda: running.phase == "trial")
    server.close()
    for _ in range(2):
        running.deployer.question_ended(V2.id, True, 10.0, 10.0, 0.0)
    eventually(lambda: running.phase == "undone")
    assert running.host.serving == {"tiny": V1.id}
    eventually(lambda: running.host.reports[-1].why.startswith("2 of 2 questions failed"))


def test_a_newer_desired_does_not_wait_for_a_silent_server(
    running: Running, server: BlobServer, eventually: Eventually
) -> None:
    """What is fetched is dropped at once, and the same Desired again drops nothing."""
    silent = Silent(10)
    server.moods = [silent]
    running.deployer.desired(wanted(V2, 1, server))
    assert silent.began.wait(10)
    running.deployer.desired(wanted(V2, 1, server))
    running.deployer.desired(wanted(V3, 2, server))
    eventually(lambda: running.phase == "trial")
    assert running.host.serving == {"tiny": V3.id}
    silent.let_go.set()


def test_quiet_hours_are_those_of_the_clock_on_the_wall(
    tmp_path: Path, server: BlobServer, eventually: Eventually
) -> None:
    """Nothing is fetched before they end."""
    running = Running(tmp_path, quiet_hours=QuietHours.parse("08:00-20:00"))
    running.deployer.desired(wanted(V2, 1, server))
    eventually(lambda: running.phase == "waiting")
    eventually(lambda: running.host.reports[-1].why == "quiet hours")
    assert server.ranges == []
    running.time, running.now = datetime.time(20, 0), 1.0
    eventually(lambda: running.phase == "trial")
    running.deployer.close()


def test_a_warming_that_takes_long_holds_up_no_other_thing(
    running: Running, server: BlobServer, eventually: Eventually
) -> None:
    """A newer Desired while the answerer opens: what opens too late is closed again, and the newer one comes."""
    began, go_on = threading.Event(), threading.Event()
    warm = running.host.warm

    def slowly(bundle: Bundle) -> Any:
        if bundle.manifest.bundle_id == V2.id:
            began.set()
            assert go_on.wait(10)
        return warm(bundle)

    running.host.warm = slowly  # type: ignore[method-assign]
    running.deployer.desired(wanted(V2, 1, server))
    assert began.wait(10)
    running.deployer.desired(wanted(V3, 2, server))
    eventually(lambda: running.phase == "fetching")
    go_on.set()
    eventually(lambda: running.phase == "trial")
    assert running.host.open == {V1.id, V3.id}


def test_what_was_under_way_goes_on_at_the_next_start(
    tmp_path: Path, server: BlobServer, eventually: Eventually
) -> None:
    """A close stops the fetching at once; the next process needs no Desired to go on."""
    silent = Silent(10)
    server.moods = [silent]
    running = Running(tmp_path)
    running.deployer.desired(wanted(V2, 1, server))
    assert silent.began.wait(10)
    running.deployer.close()
    again = Running(tmp_path)
    eventually(lambda: again.phase == "trial")
    again.deployer.close()
    silent.let_go.set()


def test_a_service_that_fails_is_a_crash(tmp_path: Path, server: BlobServer, eventually: Eventually) -> None:
    """A bundle that ends the inference thread ends the process with a message; twice on trial, and it goes back."""
    first = Running(tmp_path)
    first.deployer.desired(wanted(V2, 1, server))
    eventually(lambda: first.phase == "trial")
    first.deployer.close(in_order=False)
    first.deployer.close()
    second = Running(tmp_path)
    assert second.phase == "trial"
    second.deployer.close(in_order=False)
    third = Running(tmp_path)
    assert (third.phase, third.host.serving) == ("undone", {"tiny": V1.id})
    third.deployer.close()


def test_what_cannot_be_opened_gives_way(
    tmp_path: Path, running: Running, server: BlobServer, eventually: Eventually
) -> None:
    """Damage to the bundle that serves: the node starts with what was before it, and says so."""
    running.deployer.desired(wanted(V2, 1, server))
    eventually(lambda: running.phase == "trial")
    running.deployer.close()
    deployer = Deployer(Shelf(tmp_path / "d"), Fetcher(None), check, fixed=[check(tmp_path / "fixed")])
    (one,) = deployer.bundles_to_open()
    assert one.path.name.startswith(V2.id)
    assert deployer.could_not_open("tiny", "a file has another hash") is None
    told = deployer.deployment
    assert told is not None
    assert (told.phase, told.why) == ("undone", f"{V2.id} cannot be opened: a file has another hash")
    deployer.close()


class Panic(BaseException):
    """What a library in Rust raises where it is at its end: no Exception."""


@pytest.mark.parametrize("fault", [ZeroDivisionError, Panic])
def test_a_fault_of_the_service_ends_no_thread(
    running: Running, server: BlobServer, eventually: Eventually, fault: type[BaseException]
) -> None:
    """It raises what it should not; the next rollout is carried out all the same."""

    def breaks(bundle: Bundle) -> None:
        raise fault("a bug")

    warm = running.host.warm
    running.host.warm = breaks  # type: ignore[method-assign,assignment]
    running.deployer.desired(wanted(V2, 1, server))
    eventually(lambda: running.phase == "refused")
    eventually(lambda: running.host.reports[-1].why == f"{fault.__name__}: a bug")
    running.host.warm = warm  # type: ignore[method-assign]
    running.deployer.desired(wanted(V3, 2, server))
    eventually(lambda: running.phase == "trial")
