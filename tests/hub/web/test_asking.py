"""Questions of the page, over a real broker: told line by line, and bounded."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.runtime.generation import OneByOne
from edge_agent.service import AgentService
from hub.service import HubService
from hub.web import asking
from hub.web.asking import Asking, PageQuestion, TooMany
from hub.web.live import Live
from tests.hub.test_service import Held

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))
from noop_node import BUNDLE, Patient


@pytest.fixture
def live() -> Live:
    return Live(time.time)


@pytest.fixture
def asker(
    broker_url: str, live: Live, running: Callable[[object], Any], eventually: Callable[..., None]
) -> Iterator[Asking]:
    """Who asks for the page of a hub that takes questions."""
    hub = running(HubService(broker_url, "h", None, listeners=[live]))
    eventually(lambda: hub.service.ready)
    made = Asking(broker_url, "h", live)
    yield made
    made.close()


async def lines_of(asker: Asking, **fields: Any) -> list[dict[str, Any]]:
    return [line async for line in asker.ask(PageQuestion(**fields))]


def test_an_answer_is_told_as_it_comes(
    asker: Asking, broker_url: str, running: Callable[[object], Any], eventually: Callable[..., None]
) -> None:
    """That it was asked, by which choice it went where, piece by piece, and the whole with its times."""
    node = running(AgentService(broker_url, "n1", {BUNDLE: Patient(60.0)}))
    eventually(lambda: node.service._link.is_open)
    lines = asyncio.run(lines_of(asker, question="one two three"))
    kinds = [line["kind"] for line in lines]
    assert (kinds[0], kinds[-1], set(kinds[1:-1])) == ("asked", "answer", {"decision", "text"})
    streamed = "".join(line["text"] for line in lines if line["kind"] == "text")
    assert "one two three".startswith(streamed)  # the last piece may come with the whole
    (decision,) = (line for line in lines if line["kind"] == "decision")
    assert decision["chosen"] == lines[-1]["node"] == "n1"
    assert (lines[-1]["shown"], lines[0]["device"]) == ("one two three", "page-h")
    assert lines[-1]["timing_ms"]["total"] >= 60


def test_a_failure_is_the_last_line(asker: Asking) -> None:
    """With its code, and what to do."""
    (*_, last) = asyncio.run(lines_of(asker, question="?", model="other"))
    assert (last["kind"], last["error"]["code"]) == ("failure", "no_node")


def test_questions_under_way_are_few(
    asker: Asking,
    live: Live,
    broker_url: str,
    running: Callable[[object], Any],
    eventually: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who leaves before the answer is there does not make room; the answer does."""
    monkeypatch.setattr(asking, "MOST_UNDER_WAY", 2)
    held = Held()
    running(AgentService(broker_url, "n1", {BUNDLE: OneByOne(held)}))

    async def scene() -> None:
        for _ in range(2):
            lines = asker.ask(PageQuestion(question="why?"))
            assert (await anext(lines))["kind"] == "asked"
            await lines.aclose()  # type: ignore[attr-defined]
        with pytest.raises(TooMany, match="2 questions"):
            asker.ask(PageQuestion(question="why?"))
        threading.Timer(0.0, held.may.set).start()
        while asker._under_way:
            await asyncio.sleep(0.01)
        (*_, last) = await lines_of(asker, question="why?")
        assert last["kind"] == "answer"

    asyncio.run(asyncio.wait_for(scene(), 30))


def test_what_is_no_question_is_refused_at_once(asker: Asking) -> None:
    """Before anything is sent."""

    async def scene() -> None:
        with pytest.raises(ValueError, match="empty"):
            asker.ask(PageQuestion(question="  "))

    asyncio.run(scene())


def test_the_device_of_a_hub_with_a_long_name(live: Live) -> None:
    """Is a name as well."""
    assert len(Asking("mqtt://h", "h" * 64, live).device) == 64
