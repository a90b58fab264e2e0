"""How wide a node's link is, learned from large questions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.upload import Upload, fit_upload
from tests.hub.core_driver import Driver, bundle, works

KIB = 1024


def test_large_questions_show_a_narrow_link() -> None:
    """8 ms for each KiB are found within five questions, and forgotten as soon."""
    upload = Upload()
    for _ in range(5):
        upload = fit_upload(upload, 100 * KIB, 800.0)
    assert upload.ms_per_kib == pytest.approx(8.0, rel=0.05)
    for _ in range(30):
        upload = fit_upload(upload, 100 * KIB, 10.0)
    assert upload.ms_per_kib == pytest.approx(0.1, abs=0.5)


def test_small_questions_say_nothing() -> None:
    """A thousand short questions that are late for other reasons leave a link as wide as it was."""
    upload = Upload()
    for _ in range(1000):
        upload = fit_upload(upload, 80, 30.0)
    assert upload.ms_per_kib * 0.08 < 1.0


def test_a_report_that_cannot_be_true_teaches_nothing() -> None:
    """A node that says it computed for years must not look as if its link were wide for ever after."""
    known = fit_upload(Upload(), 100 * KIB, 800.0)
    assert fit_upload(known, 100 * KIB, -1e11) == known
    assert fit_upload(known, 100 * KIB, 1e11) == known


@given(st.lists(st.tuples(st.integers(0, 300_000), st.floats(-1e9, 1e9)), max_size=20))
def test_never_negative_nor_without_end(seen: list[tuple[int, float]]) -> None:
    """Whatever nodes report."""
    upload = Upload()
    for size_bytes, beyond_ms in seen:
        upload = fit_upload(upload, size_bytes, beyond_ms)
        assert 0.0 <= upload.ms_per_kib <= 1e6


def test_a_large_question_avoids_a_narrow_link() -> None:
    """`near` is nearer by its pings and takes the small questions; a large one goes where it arrives sooner."""
    hub = Driver()
    roomy = bundle(context=10**6)
    hub.node("near", roomy, network_ms=2.0)
    hub.node("wide", roomy, network_ms=40.0)
    large = "x" * 100 * KIB
    for number in range(6):
        ((node, _),) = works(hub.ask(large, id=f"l{number}", max_tokens=4))
        hub.wait(2.0 if node == "near" else 0.2)
        hub.done(node, id=f"l{number}")
    large_to = works(hub.ask(large, id="large", max_tokens=4))
    uploads_ms = {terms.node: terms.upload_ms for terms in hub.decisions[-1].candidates}
    hub.wait(0.2)
    hub.done("wide", id="large")
    small_to = works(hub.ask("Why?", id="small", max_tokens=4))
    assert (large_to, small_to) == ([("wide", 1)], [("near", 1)])
    assert uploads_ms["near"] > 500
    assert uploads_ms["wide"] < 200
