"""The sentences that come with the package."""

from __future__ import annotations

from exporter.sentences import sentences


def test_there_are_enough_and_none_is_in_both_halves() -> None:
    """At least 200 distinct sentences, half of them to calibrate, half to judge."""
    own = sentences()
    assert len({*own.calibration, *own.evaluation}) == len(own.calibration) + len(own.evaluation) >= 200
    assert abs(len(own.calibration) - len(own.evaluation)) <= 1


def test_each_is_a_sentence_of_plain_text() -> None:
    """Printable ASCII of some length with an end, so that every English tokenizer knows its words."""
    own = sentences()
    for one in (*own.calibration, *own.evaluation):
        assert one.isascii()
        assert one.isprintable()
        assert 15 < len(one) < 120
        assert one[-1] in ".?"


def test_the_origin_names_the_text() -> None:
    """A report says which sentences judged, by their hash."""
    assert sentences().origin.startswith("sentences that come with edgefleet, sha256:")
    assert sentences() == sentences()
