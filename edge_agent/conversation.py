"""What was said before in the sessions of this node, so that a device need not send it again.

A question that names a `session` goes on where the last one of that device and session ended, and anew where all of it
is more than the model takes. What is kept is text:
the keys and values behind it are the prefix cache's business. Bounded, the least recently used session goes first.
"""

from __future__ import annotations

import collections
from typing import Final

import msgspec

from edge_agent.errors import RequestError
from hub import wire

MOST_SESSIONS: Final = 256
MOST_CHARS: Final = 65_536  # of one session; a model's context ends long before


class Conversations:
    """Turns by (device, session)."""

    def __init__(self, most_sessions: int = MOST_SESSIONS) -> None:
        self._most_sessions = most_sessions
        self._turns: collections.OrderedDict[tuple[str, str], tuple[wire.ChatMessage, ...]] = collections.OrderedDict()

    def continued(self, device: str, question: wire.Question) -> wire.Question:
        """The question with all that was said before it in its session; as it is, where it names none.

        Raises RequestError for bare `text`, which is no turn of a conversation.
        """
        if question.session is None:
            return question
        key = (device, question.session)
        before = self._turns.get(key, ())
        if before:
            self._turns.move_to_end(key)
        return msgspec.structs.replace(question, question=None, messages=(*before, *_turns(question)))

    def forget(self, device: str, question: wire.Question) -> bool:
        """Drop what was said before in this question's session, which has outgrown the model. False if nothing was."""
        return question.session is not None and self._turns.pop((device, question.session), None) is not None

    def remember(self, device: str, question: wire.Question, answer: str) -> None:
        """The turns of `question`, as it was asked, and its answer belong to its session from now."""
        if question.session is None:
            return
        key = (device, question.session)
        said = (*self._turns.pop(key, ()), *_turns(question), wire.ChatMessage(role="assistant", content=answer))
        if sum(len(turn.content) for turn in said) > MOST_CHARS:
            return  # no model takes that: the next question starts a new conversation
        self._turns[key] = said
        while len(self._turns) > self._most_sessions:
            self._turns.popitem(last=False)


def _turns(question: wire.Question) -> tuple[wire.ChatMessage, ...]:
    if question.text is not None:
        raise RequestError("unsupported", "a session is a conversation: send question or messages, not text")
    return question.messages or (wire.ChatMessage(role="user", content=question.question or ""),)
