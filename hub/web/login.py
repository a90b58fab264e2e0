"""Who has logged in? A token becomes a cookie that only this hub can make, and guesses are few.

The cookie says until when it holds, and is signed with the token: so it does not tell the token, holds beyond a
restart, and ends when the token is taken out of the file. Pure: `now_s` is the wall clock's, for the cookie's end.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from hub.guesses import Guesses

HOLDS_S: Final = 7 * 24 * 3600


class Login:
    """The tokens of one hub; without any, there is nothing to log in to.

    >>> login = Login(["a token of the hub's"])
    >>> cookie = login.cookie("a token of the hub's", "10.0.0.7", now_s=1000.0)
    >>> login.admits(cookie, now_s=2000.0), login.admits(cookie, now_s=1000.0 + HOLDS_S), login.admits("", now_s=0.0)
    (True, False, False)
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = [token.encode() for token in tokens]
        self._guesses = Guesses()

    @property
    def is_needed(self) -> bool:
        """Whether there are tokens."""
        return bool(self._tokens)

    def cookie(self, given: str, address: str, *, now_s: float) -> str | None:
        """The cookie for who gives a token; None for what is none. Raises TooManyGuesses.

        Every comparison takes its time, whatever is right of the guess.
        """
        right = [token for token in self._tokens if hmac.compare_digest(token, given.encode())]
        if not self._guesses.told(address, right=bool(right), now_s=now_s):
            return None
        return _signed(right[0], int(now_s) + HOLDS_S)

    def admits(self, cookie: str, *, now_s: float) -> bool:
        """Whether this is a cookie of ours, and still holds."""
        until, _, _ = cookie.partition(".")
        if not until.isascii() or not until.isdecimal() or len(until) > 12 or int(until) <= now_s:
            return False
        right = [hmac.compare_digest(_signed(token, int(until)).encode(), cookie.encode()) for token in self._tokens]
        return any(right)


def _signed(token: bytes, until_s: int) -> str:
    mark = hmac.new(token, f"edge-hub page until {until_s}".encode(), hashlib.sha256).hexdigest()
    return f"{until_s}.{mark}"
