"""Opens bundles for a test, one after the other, in a process that may die of one: a path on each line of stdin.

    python tests/edge_agent/opening.py TRUSTED.pub

Answers on a line each: `opened`, `fails: why` (it opens, but gives no answer), `refused: why` or `raised: what`. A path
behind `signed:` is opened with the trusted key. An answer is asked of what opens, because much is read only then.
Memory is bounded.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from hub import wire

MOST_MEMORY_BYTES = 6 * 1024**3  # address space, of which little is used


def answered(engine: Any) -> str:
    """Whether it answers: a graph may open and fail when it runs, which the worker of a node outlives."""
    try:
        engine.answer(wire.Question(question="Why?", max_tokens=2), should_stop=lambda: False)
    except Exception as error:
        return f"fails: {error!r}"
    return "opened"


def main() -> None:
    from edge_agent.bundle import open_bundle
    from edge_agent.errors import AgentError
    from edge_agent.runtime.engine import engine_of
    from edge_agent.signature import read_trusted

    trusted = read_trusted([Path(sys.argv[1])])
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        kind, _, path = line.strip().partition(":")
        try:
            bundle = open_bundle(Path(path), trusted if kind == "signed" else ())
            with closing(engine_of(bundle, context=64, threads=1, parallel=1, prefix_bytes=0)) as engine:
                said = answered(engine)
        except AgentError as error:
            said = f"refused: {error}"
        except Exception as error:
            import traceback

            said = f"raised: {error!r} {traceback.format_exc()}"
        answers.write(json.dumps(said) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
