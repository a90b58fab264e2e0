"""The document and the table of an export."""

from __future__ import annotations

import json

import msgspec

from edge_agent.bench import Cost
from edge_agent.manifest import Accuracy
from exporter.candidate import Candidate, answer_ms
from exporter.estimate import Estimate
from exporter.report import Report

COST = Cost(
    load_ms=1, ttft_ms=1, fixed_ms=2.00049, prefill_ms_per_token=1, decode_ms_per_token=10, peak_rss_bytes=7,
    threads=2, runtime="test",
)  # fmt: skip
ACCURACY = Accuracy(
    metric="next_token_accuracy", reference=45.0, value=44.5, drop_points=0.5, drop_low_points=0.1,
    drop_bound_points=0.9, budget_points=1,
    agreement=98, kl=0.01, perplexity=11, reference_perplexity=10, count=4096, text="t",
)  # fmt: skip
FP32 = Candidate(name="fp32", accepted=True, reason="ok", weights_bytes=500_000_000, accuracy=ACCURACY, cost=COST)
REPORT = Report(
    bundle_id="m-p-0", path="b", accepted=True, profile="p", task="text-generation", precision="int8", chosen="int8",
    passes=(), stages=(FP32,), command="edge-export --model m",
    candidates=(
        Candidate(name="int4", accepted=False, reason="too large"),
        Candidate(name="int8", accepted=True, reason="ok", weights_bytes=158_000_000, accuracy=ACCURACY, cost=COST),
    ),
    reference_latency_ms=answer_ms(COST), measured_on="here", engines=(), seconds=1.26,
)  # fmt: skip


def test_the_document_is_the_contract() -> None:
    """Every figure is in its place, rounded; what was not measured is null."""
    document = json.loads(json.dumps(REPORT.document()))
    refused, chosen = document["candidates"]
    assert refused["accuracy"] is refused["measured"] is refused["weights_bytes"] is None
    assert chosen["accuracy"]["perplexity_ratio"] == 1.1
    assert chosen["accuracy"]["drop_points"] == 0.5
    assert chosen["measured"]["fixed_ms"] == 2.0
    assert document["seconds"] == 1.3


def test_the_table_has_a_row_for_each_candidate() -> None:
    """All rows have the heading's columns, and the verdicts tell the chosen from the refused."""
    heading, refused, chosen = REPORT.table()
    assert len(heading) == len(refused) == len(chosen)
    assert (refused[1], chosen[1]) == ("refused", "chosen")
    nothing = msgspec.structs.replace(REPORT, accepted=False, precision=None, chosen=None).table()
    assert nothing[2][1] == "passes"


def test_stages_are_rows_where_a_pass_changed_the_model() -> None:
    """The untouched model alone is no stage to look at; with a pass behind it, it is what the pass is compared with."""
    pruned = msgspec.structs.replace(FP32, name="fp32 after prune ffn:0.25", zeros=0.0)
    table = msgspec.structs.replace(REPORT, stages=(FP32, pruned)).table()
    assert [row[:2] for row in table[1:3]] == [("fp32", "stage"), ("fp32 after prune ffn:0.25", "stage")]
    assert len(table) == len(REPORT.table()) + 2


def test_an_estimate_is_marked() -> None:
    """In the table by a tilde, in the document by a field of its own that says for where."""
    told = Estimate(where="there", fixed_ms=1, prefill_ms_per_token=1, decode_ms_per_token=1, bandwidth_fraction=0.5)
    one = msgspec.structs.replace(FP32, estimate=told)
    report = msgspec.structs.replace(REPORT, candidates=(one,))
    assert report.table()[1][8] == "~133"
    (candidate,) = report.document()["candidates"]
    assert candidate["estimated"]["where"] == "there"
    assert candidate["measured"]["decode_ms_per_token"] == 10
