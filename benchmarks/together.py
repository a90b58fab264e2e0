"""Four questions at once against the same four one after another, in the engine that answers the agent's questions.

Whole answers, prompts included, greedily and to a length: tokens a second of all of them. Knows nothing of peers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from edge_agent.errors import RequestError
from hub.wire import Question

PARALLEL: Final = 4
_SUBJECTS: Final = ("the sea", "a mountain village", "the first railway", "a night market")  # each worth a long answer
_CONTEXT: Final = 1024


class Together(NamedTuple):
    """Tokens a second of all answers."""

    alone_tokens_per_s: float
    together_tokens_per_s: float


def job(path: Path, threads: int, new_tokens: int) -> Callable[[], Together]:
    """Open the bundle in `path`; what measures one round."""
    from edge_agent.runtime.engine import open_engine

    engine = open_engine(path, context=_CONTEXT, threads=threads, parallel=PARALLEL)
    engine.warm_up()
    questions = [
        Question(question=f"Write a long story about {subject}.", max_tokens=new_tokens, temperature=0.0)
        for subject in _SUBJECTS
    ]

    def tokens_per_s(groups: Sequence[Sequence[Question]]) -> float:
        tokens = 0
        started = time.perf_counter()
        for group in groups:
            for question in group:
                engine.begin(question, should_stop=lambda: False)
            left = len(group)
            while left:
                for _, outcome in engine.advance():
                    if isinstance(outcome, RequestError):
                        raise outcome
                    tokens += outcome.tokens.completion
                    left -= 1
        return tokens / (time.perf_counter() - started)

    return lambda: Together(tokens_per_s([[question] for question in questions]), tokens_per_s([questions]))
