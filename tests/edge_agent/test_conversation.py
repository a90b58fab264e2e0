"""A session goes on where it ended, for its own device only."""

from __future__ import annotations

import pytest

from edge_agent.conversation import MOST_CHARS, Conversations
from edge_agent.errors import RequestError
from hub import wire


def ask(text: str, session: str | None = "s") -> wire.Question:
    return wire.Question(question=text, session=session)


def said(question: wire.Question) -> list[str]:
    return [turn.content for turn in question.messages or ()]


def test_a_question_brings_what_was_said_before() -> None:
    """Turns and answers in order; other sessions and devices have none of it."""
    kept = Conversations()
    kept.remember("d", ask("one"), "first")
    kept.remember("d", wire.Question(messages=(wire.ChatMessage(role="user", content="two"),), session="s"), "second")
    assert said(kept.continued("d", ask("three"))) == ["one", "first", "two", "second", "three"]
    assert [turn.role for turn in kept.continued("d", ask("three")).messages or ()][:2] == ["user", "assistant"]
    assert said(kept.continued("d", ask("three", "other"))) == ["three"]
    assert said(kept.continued("e", ask("three"))) == ["three"]


def test_without_a_session_nothing_is_kept() -> None:
    """A question that names none stays as it is."""
    kept = Conversations()
    kept.remember("d", ask("one", None), "first")
    question = ask("two", None)
    assert kept.continued("d", question) is question


def test_the_least_recently_used_session_goes_first() -> None:
    """As many as were allowed stay; asking in one keeps it."""
    kept = Conversations(most_sessions=2)
    kept.remember("d", ask("a", "1"), "")
    kept.remember("d", ask("b", "2"), "")
    kept.continued("d", ask("again", "1"))
    kept.remember("d", ask("c", "3"), "")
    assert [said(kept.continued("d", ask("?", name)))[0] for name in "123"] == ["a", "?", "c"]


def test_a_session_beyond_all_contexts_starts_anew() -> None:
    """Memory is bounded by what a session may hold."""
    kept = Conversations()
    kept.remember("d", ask("a"), "short")
    kept.remember("d", ask("b"), "x" * MOST_CHARS)
    assert said(kept.continued("d", ask("c"))) == ["c"]


def test_what_has_outgrown_the_model_is_forgotten() -> None:
    """The session begins anew; there is nothing to forget twice, or without a session."""
    kept = Conversations()
    kept.remember("d", ask("a"), "b")
    assert kept.forget("d", ask("c"))
    assert said(kept.continued("d", ask("c"))) == ["c"]
    assert not kept.forget("d", ask("c"))
    assert not kept.forget("d", ask("c", None))


def test_bare_text_is_no_conversation() -> None:
    """Text that goes into the model as it is has no turns."""
    with pytest.raises(RequestError, match="a session is a conversation"):
        Conversations().continued("d", wire.Question(text="once upon", session="s"))
