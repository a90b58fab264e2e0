"""Who is let in by a cookie, and how often one may guess."""

from __future__ import annotations

import pytest

from hub.guesses import OF_ALL, OF_ONE, TooManyGuesses
from hub.web.login import HOLDS_S, Login

TOKENS = ("first-token-of-the-hub", "second-token-of-the-hub")


def test_each_token_makes_a_cookie_that_is_let_in() -> None:
    """Beyond a restart, until its end; and it does not tell the token."""
    for token in TOKENS:
        cookie = Login(TOKENS).cookie(token, "here", now_s=1000.0)
        assert cookie is not None
        assert token not in cookie
        assert Login(TOKENS).admits(cookie, now_s=1000.0 + HOLDS_S - 1)
        assert not Login(TOKENS).admits(cookie, now_s=1000.0 + HOLDS_S)


def test_a_token_that_is_taken_away_takes_its_cookies_with_it() -> None:
    """Without logging anybody else out."""
    first, second = (Login(TOKENS).cookie(token, "here", now_s=0.0) or "" for token in TOKENS)
    left = Login(TOKENS[1:])
    assert (left.admits(first, now_s=1.0), left.admits(second, now_s=1.0)) == (False, True)


@pytest.mark.parametrize("token", ["", "first-token-of-the-hu", "FIRST-TOKEN-OF-THE-HUB", "ünicode"])
def test_what_is_no_token_makes_no_cookie(token: str) -> None:
    """Nothing near it either."""
    assert Login(TOKENS).cookie(token, "here", now_s=0.0) is None


@pytest.mark.parametrize("cookie", ["", ".", "99999", "99999.", "-1.x", "99999.abc", "²².x", "9" * 5000, "ü.ü"])
def test_what_is_no_cookie_is_not_let_in(cookie: str) -> None:
    """And does no harm."""
    assert not Login(TOKENS).admits(cookie, now_s=0.0)


def test_a_cookie_cannot_be_made_to_hold_longer() -> None:
    """Its end is signed."""
    login = Login(TOKENS)
    cookie = login.cookie(TOKENS[0], "here", now_s=0.0) or ""
    until, _, mark = cookie.partition(".")
    assert login.admits(cookie, now_s=1.0)
    assert not login.admits(f"{int(until) + 1}.{mark}", now_s=1.0)


def test_without_tokens_nobody_has_logged_in() -> None:
    """An empty key signs nothing."""
    assert not Login(()).admits(Login(("",)).cookie("", "here", now_s=0.0) or "", now_s=1.0)


def test_guesses_are_few() -> None:
    """From one address, and from all together; the right one waits as well."""
    login = Login(TOKENS)
    for _ in range(int(OF_ONE.questions)):
        assert login.cookie("wrong", "here", now_s=0.0) is None
    with pytest.raises(TooManyGuesses):
        login.cookie(TOKENS[0], "here", now_s=0.0)
    assert login.cookie(TOKENS[0], "there", now_s=0.0) is not None
    assert login.cookie(TOKENS[0], "here", now_s=OF_ONE.seconds) is not None
    crowd = Login(TOKENS)
    for number in range(int(OF_ALL.questions)):
        crowd.cookie("wrong", f"address {number}", now_s=0.0)
    with pytest.raises(TooManyGuesses):
        crowd.cookie(TOKENS[0], "one more", now_s=0.0)
