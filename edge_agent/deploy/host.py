"""What a deployer needs of the running service: a protocol without behaviour."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from edge_agent.bundle import Bundle
from edge_agent.samples import SamplesScore
from hub import wire


class Host(Protocol):
    """The running service. `warm`, `compare` and `time` are called from the thread that works, the rest from the one
    that decides; both may wait for the service's own threads. Each may raise AgentError; `release` and `go_back` take a
    bundle that is not open, too.
    """

    def warm(self, bundle: Bundle) -> SamplesScore | None:
        """Open an answerer of a checked bundle beside what serves, and let it answer its samples; None without any."""

    def compare(self, bundle: str) -> SamplesScore | None:
        """Let the bundle on trial answer its samples again, between two questions."""

    def time(self, bundle: str, before: str) -> float | None:
        """Actual by predicted compute of the bundle on trial, as the one before predicts it, by a question of the
        node to each. None where others are asked there, where nothing is predicted, or one of them is not open.
        """

    def switch(self, bundle: str, replaces: str) -> None:
        """From the next question on, what is for the model `replaces` goes to the warmed bundle; the old stays open."""

    def settle(self, bundle: str, replaces: str) -> None:
        """`bundle` serves for good: close what served `replaces` before it, once its work has ended."""

    def go_back(self, bundle: str, replaces: str, to: Path | None) -> None:
        """From the next question on, what was deployed in `to` serves `replaces` again, opened if it is not; None: the
        fixed bundle of that model, or nothing. Close `bundle` once its work has ended.
        """

    def release(self, bundle: str) -> None:
        """Close a warmed bundle that is not switched to."""

    def report(self, deployment: wire.Deployment) -> None:
        """Put this into the node's state."""
