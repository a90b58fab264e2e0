"""`edge-agent`, on a machine on which bundles of a version above 1 open, and fail every question."""

from __future__ import annotations

from typing import Any

from edge_agent import opened
from edge_agent.cli import main
from edge_agent.runtime import launch
from edge_agent.runtime.switching import Switching


class Failing(Switching):
    """Its graph dies."""

    def begin(self, *args: Any, **kwargs: Any) -> Any:
        if self.served.version > 1:
            raise RuntimeError("this machine's graph dies")
        return super().begin(*args, **kwargs)


def open_failing(*args: Any) -> Switching:
    answerer = launch.open_answerer(*args)
    answerer.__class__ = Failing
    return answerer


if __name__ == "__main__":
    opened.open_answerer = open_failing
    main()
