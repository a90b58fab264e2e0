"""What is there to be seen at this hub now? Looks at the fleet and at what has happened, for `stream.py`.

The hub's own thread gives its frozen values, which takes it a millisecond for 500 nodes; all else is made here, in the
HTTP thread, and in small pieces: between two of them the hub's thread may have the interpreter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import anyio

from hub.fleet import Node
from hub.recent import Recent
from hub.running_hub import RunningHub
from hub.web import picture
from hub.web.hour import SLOT_S, SLOTS, Slot
from hub.web.live import QUESTIONS, Live, News, Seen
from hub.web.node_view import Look, look, node_view
from hub.web.picture import Now, Picture, View
from hub.web.question_view import question_view

LOOKS_WITHIN_S: Final = 5.0
_NODES_A_PIECE: Final = 25  # half a millisecond
_QUESTIONS_A_PIECE: Final = 5
_MOST_NEW: Final = 50  # questions that are new in a second: more than that nobody can read


class Hub(RunningHub, Protocol):
    """The hub that is shown."""

    @property
    def name(self) -> str:
        """How it is called."""
        ...


class Present:
    """A source for `Stream`. `clock` gives seconds since the epoch, `rollouts` those that are shown, if any are."""

    def __init__(
        self, hub: Hub, live: Live, clock: Callable[[], float], rollouts: Callable[[], tuple[View, ...]] = tuple
    ) -> None:
        self._hub = hub
        self._live = live
        self._clock = clock
        self._rollouts = rollouts
        self._number = 0
        self._shown: dict[str, tuple[Node, float, View]] = {}  # what a view was made of
        self._questions: Recent[tuple[str, str], View] = Recent(QUESTIONS)
        self._slots: dict[int, Slot] = {}
        self._picture: Picture | None = None

    def begin(self) -> None:
        """Nobody has watched for a while: the next `advance` takes all that is kept, as the first one did."""
        self._number = 0

    async def advance(self) -> View:
        """Go on to the present, and tell what has changed."""
        with anyio.fail_after(LOOKS_WITHIN_S):
            looked = await asyncio.wrap_future(self._hub.call(look))
        nodes = await self._nodes(looked)
        news = self._live.since(self._number)
        await self._take(news)
        before, self._picture = self._picture, self._pictured(looked[1], nodes, news)
        self._number = news.number
        return picture.change(before, self._picture)

    def whole(self) -> View:
        """Everything, as of the last `advance`."""
        assert self._picture is not None
        return picture.whole(self._picture)

    async def _nodes(self, looked: Look) -> dict[str, View]:
        """The nodes' views, those of nodes that have not changed as they were."""
        nodes, _, now = looked
        shown: dict[str, tuple[Node, float, View]] = {}
        made = 0
        for node, wait_ms in nodes:
            before = self._shown.get(node.name)
            if before is not None and before[0] is node and before[1] == wait_ms and not node.failing.rate:
                shown[node.name] = before
                continue
            last = None if before is None else (before[0], before[2])
            shown[node.name] = (node, wait_ms, node_view(node, wait_ms, now, last))
            made += 1
            if made % _NODES_A_PIECE == 0:
                await asyncio.sleep(0)
        self._shown = shown
        return {name: view for name, (_, _, view) in shown.items()}

    async def _take(self, news: News) -> None:
        for made, seen in enumerate(self._to_be_shown(news), 1):
            self._questions.put((seen.device, seen.id), question_view(seen))
            if made % _QUESTIONS_A_PIECE == 0:
                await asyncio.sleep(0)
        oldest_s = self._clock() - SLOT_S * SLOTS
        self._slots = {start_s: slot for start_s, slot in self._slots.items() if start_s > oldest_s}
        self._slots.update({slot.start_s: slot for slot in news.slots})

    def _to_be_shown(self, news: News) -> list[Seen]:
        """Of new questions the last ones, but of those that are shown every change: else they would never end."""
        most = _MOST_NEW if self._number else QUESTIONS
        new = [seen for seen in news.questions if (seen.device, seen.id) not in self._questions]
        left_out = {seen.number for seen in new[:-most]}
        return [seen for seen in news.questions if seen.number not in left_out]

    def _pictured(self, in_flight: int, nodes: dict[str, View], news: News) -> Picture:
        now = Now(
            now_s=self._clock(),
            hub=self._hub.name,
            connected=self._hub.ready,
            in_flight=in_flight,
            per_s=news.per_s,
            hour=news.hour,
        )
        questions = tuple(reversed(list(self._questions.newest_first())))
        return Picture(now=now, nodes=nodes, questions=questions, slots=dict(self._slots), rollouts=self._rollouts())
