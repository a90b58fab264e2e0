"""How is a hub asked while it runs? Whatever shows it asks in this way; `hub/service.py` answers.

Knows nothing of what is asked.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Protocol, TypeVar

from hub.core import Core

T = TypeVar("T")


class RunningHub(Protocol):
    """A hub in its own thread; all of this is for any other."""

    @property
    def ready(self) -> bool:
        """Whether it takes questions now."""
        ...

    def call(self, function: Callable[[Core, float], T]) -> concurrent.futures.Future[T]:
        """What `function` says of the core, in the hub's own thread."""
        ...
