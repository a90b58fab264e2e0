"""`edge-agent`, on a machine on which bundles of a version above 1 fail every other question."""

from __future__ import annotations

import itertools
from typing import Any

from edge_agent import opened
from edge_agent.cli import main
from edge_agent.runtime import launch
from edge_agent.runtime.switching import Switching


class Failing(Switching):
    """Its graph dies now and then."""

    _turns = itertools.count()

    def begin(self, *args: Any, **kwargs: Any) -> Any:
        if self.served.version > 1 and next(self._turns) % 2:
            raise RuntimeError("this machine's graph dies")
        return super().begin(*args, **kwargs)


def open_failing(*args: Any) -> Switching:
    answerer = launch.open_answerer(*args)
    answerer.__class__ = Failing
    return answerer


if __name__ == "__main__":
    opened.open_answerer = open_failing
    main()
