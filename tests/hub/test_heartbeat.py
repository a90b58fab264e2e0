"""Pings and pongs of one node."""

from __future__ import annotations

from hub.heartbeat import Heartbeat


def test_hold_is_subtracted() -> None:
    """The round trip is what lies between ping and pong without the time that the node held it."""
    beat = Heartbeat()
    seq = beat.ping(10.0)
    assert beat.pong(seq, 15.0, 10.1) == (10.0, 85.0)


def test_a_pong_counts_once() -> None:
    """A repeated or unknown pong says nothing."""
    beat = Heartbeat()
    seq = beat.ping(10.0)
    beat.pong(seq, 0.0, 10.1)
    assert beat.pong(seq, 0.0, 10.2) is None
    assert beat.pong(seq + 1, 0.0, 10.2) is None


def test_long_link_is_not_silent() -> None:
    """Pongs that come two seconds after their ping, but come, are no silence."""
    beat = Heartbeat()
    for second in range(60):
        seq = beat.ping(float(second))
        if second >= 2:
            assert beat.pong(seq - 2, 0.0, second + 0.001) is not None
        assert not beat.silent


def test_silence_is_no_distance() -> None:
    """The pong that ends a silence, and those that come with it, measure nothing; the next ping does."""
    beat = Heartbeat()
    seqs = [beat.ping(float(second)) for second in range(4)]
    assert beat.silent
    assert [beat.pong(seq, 0.0, 3.5) for seq in seqs] == [(0.0, None), (1.0, None), (2.0, None), (3.0, None)]
    assert not beat.silent
    assert beat.pong(beat.ping(4.0), 0.0, 4.25) == (4.0, 250.0)


def test_restart_forgets_what_is_under_way() -> None:
    """After the link or node was away, old pongs are strange and old pings are not missed."""
    beat = Heartbeat()
    old = [beat.ping(float(second)) for second in range(3)]
    beat.restart()
    assert not beat.silent
    assert beat.pong(old[-1], 0.0, 3.0) is None


def test_never_answers_do_not_fill_the_memory() -> None:
    """Only the last minute's pings are remembered."""
    beat = Heartbeat()
    first = beat.ping(0.0)
    for second in range(1, 1000):
        beat.ping(float(second))
    assert len(beat._sent_s) <= 64
    assert beat.pong(first, 0.0, 1000.0) is None


def test_hold_longer_than_the_round_trip() -> None:
    """A node's clock may be coarse: a round trip is never negative."""
    beat = Heartbeat()
    assert beat.pong(beat.ping(0.0), 50.0, 0.01) == (0.0, 0.0)
