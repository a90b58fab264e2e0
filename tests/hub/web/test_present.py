"""What there is to be seen: the fleet of a core, and what has happened, once each."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import Any

import pytest

from hub import events
from hub.decision import Decision
from hub.web import present
from hub.web.live import Live
from hub.web.present import Present
from tests.hub.core_driver import Driver, proven
from tests.hub.rows import record

NOW_S = 1_000_000.0


class Watched:
    """A hub around a driven core; what it decides is heard, as the service lets it be heard."""

    name = "hub-1"
    ready = True

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.live = Live(lambda: NOW_S)
        self.turns = True

    def call(self, function: Callable[[Any, float], Any]) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        if self.turns:
            future.set_result(function(self.driver.core, self.driver.now))
        return future

    def hear(self, effects: list[events.Effect]) -> None:
        """What the service would have told its listeners."""
        for decision in self.driver.decisions:
            self.live.decided(decision)
        self.driver.decisions.clear()
        for effect in effects:
            if isinstance(effect, events.StoreRecord):
                self.live.ended(effect.record, NOW_S)

    def asked(self, *numbers: int) -> None:
        """Questions that were routed, by number."""
        for number in numbers:
            self.live.decided(
                Decision(device="d", id=f"{number}", attempt=1, chosen=None, candidates=(), rejected=(), cause="")
            )

    def answered(self, *numbers: int) -> None:
        """These have ended."""
        for number in numbers:
            self.live.ended(record(device="d", id=f"{number}"), NOW_S)


def asked_still(told: dict[str, Any]) -> list[str]:
    """The questions that are shown without an outcome."""
    return [question["id"] for question in told["questions"] if question["outcome"] is None]


@pytest.fixture
def watched() -> Watched:
    driver = proven("a", "b")
    driver.decisions.clear()
    return Watched(driver)


def test_rollouts_are_shown(watched: Watched) -> None:
    """As they are now, and again when they have changed."""
    views: list[dict[str, Any]] = [{"name": "r", "status": "active"}]
    shown = Present(watched, watched.live, lambda: NOW_S, lambda: tuple(views))

    async def scene() -> None:
        assert (await shown.advance())["rollouts"] == tuple(views)
        assert "rollouts" not in await shown.advance()
        views[:] = [{"name": "r", "status": "done"}]
        assert (await shown.advance())["rollouts"] == shown.whole()["rollouts"] == tuple(views)

    asyncio.run(scene())


def test_what_happens_is_told_once(watched: Watched) -> None:
    """A question when it is routed, and when it has ended; a node when it has changed, and only in what has."""
    shown = Present(watched, watched.live, lambda: NOW_S)

    async def scene() -> None:
        first = await shown.advance()
        assert (sorted(first["nodes"]), first["hub"], first["in_flight"]) == (["a", "b"], "hub-1", 0)
        watched.hear(watched.driver.ask(id="q"))
        asked = await shown.advance()
        (question,) = asked["questions"]
        (changed,) = asked["nodes"]
        assert question["decisions"][0]["chosen"] == changed
        assert asked["nodes"][changed]["in_flight"] == 1
        assert asked["in_flight"] == 1
        watched.hear(watched.driver.done(changed))
        ended = await shown.advance()
        assert ended["questions"][0]["outcome"]["outcome"] == "answered"
        assert ended["slots"][0][1] == 1
        assert (await shown.advance())["questions"] == []
        watched.driver.state("b", status="offline", epoch=9)
        assert list((await shown.advance())["nodes"]) == ["b"]

    asyncio.run(scene())


def test_the_whole_is_what_the_changes_add_up_to(watched: Watched) -> None:
    """For one who comes late."""
    shown = Present(watched, watched.live, lambda: NOW_S)

    async def scene() -> None:
        await shown.advance()
        watched.hear(watched.driver.ask(id="q"))
        await shown.advance()
        told = shown.whole()
        assert sorted(told["nodes"]) == ["a", "b"]
        assert [question["id"] for question in told["questions"]] == ["q"]
        other = Present(watched, watched.live, lambda: NOW_S)
        await other.advance()
        assert other.whole() == told

    asyncio.run(scene())


def test_what_is_shown_is_shown_to_its_end(watched: Watched) -> None:
    """However many others come in the same second, of which the last ones are shown."""
    shown = Present(watched, watched.live, lambda: NOW_S)

    async def scene() -> None:
        await shown.advance()
        watched.asked(*range(50))
        await shown.advance()
        assert len(asked_still(shown.whole())) == 50
        watched.answered(*range(50))
        watched.asked(*range(50, 110))
        told = await shown.advance()
        assert asked_still(told) == asked_still(shown.whole()) == [f"{number}" for number in range(60, 110)]
        assert len(told["questions"]) == 100
        watched.answered(*range(50, 110))
        await shown.advance()
        assert asked_still(shown.whole()) == []

    asyncio.run(scene())


def test_a_flood_hides_no_end(watched: Watched) -> None:
    """Where more questions come between two looks than are shown, those that were shown end all the same."""
    shown = Present(watched, watched.live, lambda: NOW_S)

    async def scene() -> None:
        await shown.advance()
        watched.asked(*range(50))
        await shown.advance()
        watched.answered(*range(50))
        watched.asked(*range(50, 500))
        watched.answered(*range(50, 500))
        told = await shown.advance()
        assert (len(told["questions"]), asked_still(shown.whole())) == (100, [])

    asyncio.run(scene())


def test_who_comes_after_a_while_is_shown_what_was_meanwhile(watched: Watched) -> None:
    """The questions before the pause are gone where as many came after them, and none is left without its end."""
    shown = Present(watched, watched.live, lambda: NOW_S)

    async def scene() -> None:
        await shown.advance()
        watched.asked(*range(50))
        await shown.advance()
        watched.answered(*range(50))
        watched.asked(*range(50, 300))
        watched.answered(*range(50, 300))
        shown.begin()
        await shown.advance()
        questions = shown.whole()["questions"]
        assert [question["id"] for question in questions] == [f"{number}" for number in range(100, 300)]
        assert asked_still(shown.whole()) == []

    asyncio.run(scene())


def test_a_hub_that_does_not_answer_is_an_error_and_changes_nothing(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the next second tells what this one did not."""
    monkeypatch.setattr(present, "LOOKS_WITHIN_S", 0.01)
    shown = Present(watched, watched.live, lambda: NOW_S)

    async def scene() -> None:
        await shown.advance()
        watched.hear(watched.driver.ask(id="q"))
        watched.turns = False
        with pytest.raises(asyncio.TimeoutError):
            await shown.advance()
        watched.turns = True
        assert [question["id"] for question in (await shown.advance())["questions"]] == ["q"]

    asyncio.run(scene())
