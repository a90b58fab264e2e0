"""Can an address be reached? Asked in a thread of its own, so that nobody has to stand still for the answer.

Connecting blocks: for seconds where packets are swallowed, or where a name server does not answer. Knows nothing of
MQTT.
"""

from __future__ import annotations

import socket
import threading
from typing import Final

LIMIT_S: Final = 5.0


class Reach:
    """One attempt to connect to `host` and `port`; `reached` is None until it is known."""

    def __init__(self, host: str, port: int) -> None:
        self.reached: bool | None = None
        threading.Thread(target=self._try, args=(host, port), name="reach", daemon=True).start()

    def _try(self, host: str, port: int) -> None:
        try:
            socket.create_connection((host, port), LIMIT_S).close()
        except OSError:
            self.reached = False
        else:
            self.reached = True
