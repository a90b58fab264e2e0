"""How often may one guess a key? A few times from one address, and not often from all together.

While there were too many wrong ones the right one is not told from them: else guessing would go on. Whoever brought
the right one lately waits for its own address's wrong ones alone, so strangers keep nobody out who was in. Pure;
`now_s` is seconds by whatever clock.
"""

from __future__ import annotations

import math
from typing import Final

from hub.recent import Recent
from hub.shares import Rate, Rates

OF_ONE: Final = Rate(5, 60.0)  # from one address
OF_ALL: Final = Rate(60, 60.0)
_ADDRESSES: Final = 1024


class TooManyGuesses(Exception):
    """No guess is taken now, be it right; `wait_s` says for how long."""

    def __init__(self, wait_s: int) -> None:
        super().__init__(f"too many wrong keys came: wait {wait_s} s, then send the right one")
        self.wait_s = wait_s


class Guesses:
    """The wrong guesses at the keys of one server.

    >>> guesses = Guesses()
    >>> [guesses.told("10.0.0.7", right=right, now_s=0.0) for right in (True, False, False, False, False, False)]
    [True, False, False, False, False, False]
    >>> guesses.told("10.0.0.7", right=True, now_s=1.0)
    Traceback (most recent call last):
    hub.guesses.TooManyGuesses: too many wrong keys came: wait 11 s, then send the right one
    """

    def __init__(self) -> None:
        self._of_one = Rates(OF_ONE, _ADDRESSES)
        self._of_all = Rates(OF_ALL, 1)
        self._known: Recent[str, bool] = Recent(_ADDRESSES)

    def told(self, address: str, *, right: bool, now_s: float) -> bool:
        """What one who guesses at this address may know of it: `right`. Raises TooManyGuesses."""
        wait_ms = self._of_one.wait_ms(address, now_s)
        if self._known.get(address) is None:
            wait_ms = max(wait_ms, self._of_all.wait_ms("", now_s))
        if wait_ms:
            raise TooManyGuesses(math.ceil(wait_ms / 1000))
        if right:
            self._known.put(address, True)
        else:
            self._of_one.take(address, now_s)
            self._of_all.take("", now_s)
        return right
