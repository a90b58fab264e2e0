"""What a deployer asks of the bundles that are open: one in each place, going back costs nothing, nothing leaks."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_agent import opened as opened_module
from edge_agent.bundle import Bundle
from edge_agent.errors import BundleError, DeployError, RequestError
from edge_agent.opened import Opened
from edge_agent.price import Priced
from edge_agent.runtime.launch import Opening
from edge_agent.samples import SamplesScore
from hub import wire
from tests.edge_agent.conftest import build_graph, draft_manifest

OPENING = Opening(context=None, threads=1, parallel=1, prefix_bytes=0)
SCORE = SamplesScore(samples=1, tokens=4, equal=4, agreement=100.0)


class Answerer:
    """Open, until it is closed once."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle.manifest.bundle_id
        self.closed = 0
        self.version: int | None = None
        self.asked: list[wire.Question] = []
        self.dies: Any = "an outcome"
        self.raises: BaseException | None = None
        self.abandoned = 0
        self.served = wire.ServedBundle(
            bundle=self.bundle, version=bundle.manifest.version, model=bundle.manifest.model.name, task="t", context=1,
            fixed_ms=0, prefill_ms_per_token=0, decode_ms_per_token=0,
        )  # fmt: skip

    def compare(self) -> SamplesScore:
        return SCORE

    def begin(self, question: wire.Question, *, should_stop: Callable[[], bool]) -> str:
        self.asked.append(question)
        if isinstance(self.dies, RequestError) and self.dies.code == "overloaded":
            raise self.dies
        return "ticket"

    def advance(self) -> list[tuple[str, Any]]:
        if self.raises is not None:
            raise self.raises
        return [("another", "outcome"), ("ticket", self.dies)]

    def abandon(self) -> None:
        self.abandoned += 1

    def close(self) -> None:
        self.closed += 1
        if self.raises is not None:
            raise self.raises


class Service:
    """A node that does at once what it is told, but closes a bundle only when the test says that it is done."""

    def __init__(self, *offered: str) -> None:
        self.offered = list(offered)
        self.going: dict[str, Callable[[], None]] = {}
        self.idle = True
        self.told: list[wire.Deployment] = []

    def offer(self, answerer: Any, *, instead_of: str | None = None) -> None:
        self.offered = [one for one in self.offered if one != instead_of] + [answerer.served.bundle]

    def withdraw(self, bundle: str) -> None:
        self.offered.remove(bundle)

    def let_go(self, bundle: str, close: Callable[[], None]) -> None:
        self.going[bundle] = close

    def between_questions(self, bundle: str, call: Callable[[bool], None]) -> None:
        def called() -> None:
            with contextlib.suppress(BaseException):  # a worker outlives it
                call(self.idle)

        threading.Thread(target=called).start()

    def deployed(self, deployment: wire.Deployment) -> None:
        self.told.append(deployment)


class Scene:
    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answerers: dict[str, Answerer] = {}
        self.draft = draft_manifest(build_graph(tmp_path / "g.onnx"))
        self.on_disk: dict[Path, Bundle] = {}

        def open_answerer(bundle: Bundle, opening: Opening) -> Answerer:
            assert bundle.manifest.bundle_id not in self.alive, "opened twice"
            self.answerers[bundle.manifest.bundle_id] = answerer = Answerer(bundle)
            return answerer

        monkeypatch.setattr(opened_module, "open_answerer", open_answerer)

    def bundle(self, name: str, version: int, model: str = "m") -> Bundle:
        info = msgspec.structs.replace(self.draft.model, name=model)
        manifest = msgspec.structs.replace(self.draft, bundle_id=name, version=version, model=info)
        bundle = Bundle(Path("/bundles") / name, manifest)
        self.on_disk[bundle.path] = bundle
        return bundle

    def opened(self, *fixed: Bundle) -> tuple[Opened, Service]:
        opened = Opened(OPENING, lambda path: self.on_disk[path], fixed)
        for bundle in fixed:
            opened.open(bundle)
        service = Service(*opened.answerers)
        opened.service = service
        return opened, service

    @property
    def alive(self) -> list[str]:
        return sorted(name for name, one in self.answerers.items() if not one.closed)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path, monkeypatch)


def test_a_bundle_is_warmed_switched_to_and_settled(scene: Scene) -> None:
    """The old one stays open until the new one serves for good and what it had to answer is done."""
    opened, service = scene.opened(scene.bundle("old", 1))
    assert (opened.profile, opened.warm(scene.bundle("new", 2))) == ("desktop-cpu", None)
    assert (service.offered, scene.alive) == (["old"], ["new", "old"])
    opened.switch("new", "m")
    assert (service.offered, scene.alive) == (["new"], ["new", "old"])
    opened.settle("new", "m")
    assert scene.alive == ["new", "old"], "something still waits for it"
    service.going["old"]()
    assert scene.alive == ["new"]
    opened.close()
    assert (scene.alive, scene.answerers["old"].closed) == ([], 1)


def test_going_back_within_the_trial_opens_nothing(scene: Scene) -> None:
    """The fixed bundle is still open; the new one closes."""
    opened, service = scene.opened(scene.bundle("old", 1))
    opened.warm(scene.bundle("new", 2))
    opened.switch("new", "m")
    opened.go_back("new", "m", None)
    assert (service.offered, list(service.going)) == (["old"], ["new"])
    service.going["new"]()
    assert (scene.alive, scene.answerers["old"].closed) == (["old"], 0)


def test_going_back_within_the_trial_needs_no_disk(scene: Scene) -> None:
    """What served before is open: a disk that cannot be read now keeps no bad bundle in its place."""
    opened, service = scene.opened()
    first, second = scene.bundle("first", 1), scene.bundle("second", 2)
    opened.warm(first)
    opened.switch("first", "m")
    opened.settle("first", "m")
    opened.warm(second)
    opened.switch("second", "m")
    scene.on_disk.clear()
    opened.go_back("second", "m", first.path)
    assert (service.offered, list(service.going)) == (["first"], ["second"])


def test_going_back_from_what_was_never_switched_to_closes_it(scene: Scene) -> None:
    """The node knows nothing of it, so nobody else would; and neither of two fixed bundles is closed by that."""
    opened, service = scene.opened(scene.bundle("int4", 1), scene.bundle("int8", 1))
    for name in ("new", "int4"):
        opened.warm(scene.bundle(name, 2))
        with pytest.raises(DeployError):
            opened.switch(name, "m")
        opened.go_back(name, "m", None)
    assert (scene.alive, service.offered, service.going) == (["int4", "int8"], ["int4", "int8"], {})


def test_going_back_later_opens_what_was_there(scene: Scene) -> None:
    """From its folder, checked again; and where nothing was there before, nothing serves."""
    opened, service = scene.opened()
    first, second = scene.bundle("first", 1), scene.bundle("second", 2)
    for bundle in (first, second):
        opened.warm(bundle)
        opened.switch(bundle.manifest.bundle_id, "m")
        opened.settle(bundle.manifest.bundle_id, "m")
    service.going.pop("first")()
    assert scene.alive == ["second"]
    opened.go_back("second", "m", first.path)
    assert service.offered == ["first"]
    opened.go_back("first", "m", None)
    assert (service.offered, sorted(service.going)) == ([], ["first", "second"])


def test_what_is_not_switched_to_is_released(scene: Scene) -> None:
    """Once; and what serves is not released by that."""
    opened, _ = scene.opened(scene.bundle("old", 1))
    opened.warm(scene.bundle("new", 2))
    for bundle in ("new", "new", "old", "unknown"):
        opened.release(bundle)
    assert (scene.alive, scene.answerers["new"].closed) == (["old"], 1)


def test_the_same_content_in_another_version_is_not_opened_again(scene: Scene) -> None:
    """It answers the same; neither settling nor going back may close what serves."""
    opened, service = scene.opened(scene.bundle("same", 1))
    opened.warm(scene.bundle("same", 2))
    opened.switch("same", "m")
    opened.settle("same", "m")
    assert (service.offered, scene.alive, service.going) == (["same"], ["same"], {})
    assert scene.answerers["same"].version == 2
    opened.go_back("same", "m", None)
    assert (service.offered, scene.alive, service.going) == (["same"], ["same"], {})
    assert scene.answerers["same"].version == 1


def test_a_bundle_that_is_still_closing_is_waited_for(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deployed again at once, it is opened anew after that; where it takes too long, the deployment says so."""
    opened, service = scene.opened(scene.bundle("old", 1))
    new = scene.bundle("new", 2)
    opened.warm(new)
    opened.switch("new", "m")
    opened.go_back("new", "m", None)
    monkeypatch.setattr(opened_module, "CLOSES_WITHIN_S", 0.05)
    with pytest.raises(DeployError, match="still being closed"):
        opened.warm(new)
    service.going.pop("new")()
    opened.warm(new)
    assert scene.alive == ["new", "old"]


def test_samples_are_compared_between_two_questions(scene: Scene) -> None:
    """Where questions came in between, they will tell, and nothing is compared."""
    opened, service = scene.opened(scene.bundle("old", 1))
    assert opened.compare("old") == SCORE
    assert len(scene.answerers["old"].asked) == 1
    service.idle = False
    assert opened.compare("old") is None
    assert len(scene.answerers["old"].asked) == 1


def test_a_bundle_that_nobody_asked_is_asked_by_the_node_itself(scene: Scene) -> None:
    """A graph that dies of a question is found out so; a question that it does not take is no fault."""
    opened, _ = scene.opened(scene.bundle("old", 1))
    scene.answerers["old"].dies = RequestError("internal", "the graph gives no numbers")
    with pytest.raises(RequestError, match="gives no numbers"):
        opened.compare("old")
    scene.answerers["old"].dies = RequestError("overloaded", "no memory")
    assert opened.compare("old") == SCORE


def test_a_trial_that_breaks_leaves_nothing_behind(scene: Scene) -> None:
    """Its question must not end among those of others, and a fault of a library is told to whoever asked."""

    class Panic(BaseException):
        pass

    opened, _ = scene.opened(scene.bundle("old", 1))
    for error in (ZeroDivisionError(), Panic()):
        scene.answerers["old"].raises = error
        with pytest.raises(type(error)):
            opened.compare("old")
    assert scene.answerers["old"].abandoned == 2


def test_a_bundle_that_cannot_be_closed_ends_no_thread(scene: Scene) -> None:
    """And the same bundle can be deployed again."""
    opened, service = scene.opened(scene.bundle("old", 1))
    opened.warm(scene.bundle("new", 2))
    opened.switch("new", "m")
    scene.answerers["new"].raises = ZeroDivisionError()
    opened.go_back("new", "m", None)
    service.going.pop("new")()
    opened.warm(scene.bundle("new", 3))


def test_two_bundles_of_one_model_cannot_be_replaced(scene: Scene) -> None:
    """Which of them is meant is not known; and one bundle is not opened twice."""
    opened, _ = scene.opened(scene.bundle("int4", 1), scene.bundle("int8", 1), scene.bundle("other", 1, "o"))
    opened.warm(scene.bundle("new", 2))
    with pytest.raises(DeployError, match="two fixed bundles of m"):
        opened.switch("new", "m")
    opened.release("new")
    with pytest.raises(BundleError, match="is bundle int4 again"):
        opened.open(scene.bundle("int4", 1))


def test_how_far_it_is_goes_into_the_state(scene: Scene) -> None:
    """As it is."""
    opened, service = scene.opened()
    deployment = wire.Deployment(epoch=1, rollout="r", bundle="b", version=1, phase="fetching")
    opened.report(deployment)
    assert service.told == [deployment]


class Given:
    """What came of a question, so far as its time goes."""

    def __init__(self, compute_ms: float, tokens: int) -> None:
        self.compute_ms = compute_ms
        self.tokens = wire.Tokens(prompt=3, completion=tokens)


def test_a_bundle_is_timed_beside_the_one_before(scene: Scene) -> None:
    """Token by token: an answer that ends earlier is not faster, and what slows the machine down slows both."""
    opened, service = scene.opened()
    cost = {"fixed_ms": 0.0, "prefill_ms_per_token": 0.0, "decode_ms_per_token": 1.0}
    for name in ("old", "new"):
        opened.open(scene.bundle(name, 1), name)
    said = scene.draft.measured
    here = msgspec.structs.replace(scene.answerers["old"].served, **cost)
    opened._priced["old"] = Priced(here, said)
    scene.answerers["old"].dies, scene.answerers["new"].dies = Given(80.0, 8), Given(80.0, 4)
    assert opened.time("new", "old") == 2.0
    assert opened.time("gone", "old") is None
    service.idle = False
    assert opened.time("new", "old") is None
    service.idle = True
    opened._priced["old"] = Priced(here, msgspec.structs.replace(said, where="elsewhere"))
    assert opened.time("new", "old") is None
