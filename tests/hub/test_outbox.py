"""Publishes that the broker has not accepted, and the asks that wait for that."""

from __future__ import annotations

from collections import Counter

from hub import events, wire
from hub.intake import Sender
from hub.outbox import Outbox, Reply
from hub.questions import failure_for

WORK = events.PublishWork(
    node="a",
    work=wire.Work(
        hub="hub",
        device="d",
        question=wire.Question(id="q", question="Why?"),
        attempt=1,
        budget_ms=1.0,
        bundle="b",
        reply_to="edge/v1/answer/d",
    ),
    ticket=0,
)
SENDER = Sender(device="d", reply_to="edge/v1/answer/d", correlation=None, plain=False)


def failure(question_id: str, *receipts: int) -> Reply:
    problem = wire.Problem(code="invalid", message="x")
    return Reply(failure_for(SENDER, wire.Failure(id=question_id, error=problem)), list(receipts))


def outbox(limit: int = 10) -> Outbox:
    made = Outbox(Counter(), limit)
    made.open()
    return made


def test_newest_work_counts() -> None:
    """Work that was published again is accepted by its latest ticket, not by the one before."""
    box = outbox()
    box.publish_work(("d", "q"), WORK)
    box.publish_work(("d", "q"), WORK)
    first, second = (effect.ticket for effect in box.out if isinstance(effect, events.PublishWork))
    assert box.accepted(first) is None
    assert box.accepted(second) == ("d", "q")
    assert box.accepted(second) is None


def test_replies_survive_the_link() -> None:
    """A reply that was not accepted goes out again when there is a link, and settles its receipts then."""
    box = outbox()
    box.reply(failure("1", 7))
    box.close()
    box.reply(failure("2", 8))
    box.out = []
    box.open()
    assert [effect.failure.id for effect in box.out if isinstance(effect, events.PublishFailure)] == ["1", "2"]
    for effect in list(box.out):
        assert isinstance(effect, events.PublishFailure)
        box.accepted(effect.ticket)
    assert sorted(effect.receipt for effect in box.out if isinstance(effect, events.AcknowledgeAsk)) == [7, 8]
    assert box.waiting == 0


def test_work_does_not_survive_the_link() -> None:
    """Whoever has questions in flight publishes their Work again, so old tickets are strangers."""
    box = outbox()
    box.publish_work(("d", "q"), WORK)
    box.close()
    assert box.waiting == 0
    box.publish_work(("d", "q"), WORK)
    assert box.waiting == 0


def test_limit() -> None:
    """Beyond the limit a reply is dropped and counted, and its ask acknowledged: nothing waits for ever."""
    counters: Counter[str] = Counter()
    box = Outbox(counters, 1)
    box.reply(failure("1", 1))
    box.reply(failure("2", 2))
    assert box.out == [events.AcknowledgeAsk(2)]
    assert counters["replies_dropped"] == 1
