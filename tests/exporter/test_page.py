"""The page of an export, as a browser would take it apart."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import msgspec
import pytest

from edge_agent.bench import Cost
from edge_agent.manifest import Accuracy, Engine, Pass
from exporter.candidate import Candidate
from exporter.page import page
from exporter.report import Report

VOID = {"meta", "br", "link", "img", "input", "hr"}
HOSTILE = "<script>alert('x')</script>\"&"


class Element(msgspec.Struct):
    """A tag, its attributes, the elements around it and the text anywhere inside."""

    tag: str
    attributes: dict[str, str]
    around: tuple[Element, ...]
    text: str = ""

    @property
    def classes(self) -> list[str]:
        return self.attributes.get("class", "").split()

    def inside(self, tag: str, name: str = "") -> bool:
        return any(one.tag == tag and (not name or name in one.classes) for one in self.around)


class Page(HTMLParser):
    """All elements of a page; asserts that what is opened is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or "" for key, value in attrs}, tuple(self._open))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {key: value or "" for key, value in attrs}, tuple(self._open)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, tag: str, name: str = "") -> list[Element]:
        return [one for one in self.elements if one.tag == tag and (not name or name in one.classes)]

    def marks(self, drawing: str = "wide") -> dict[str, Element]:
        """The marks of a plot by the name in their titles; candidates go before stages."""
        titles = [one for one in self.all("title") if one.around[-1].tag == "g" and one.inside("svg", drawing)]
        titles.sort(key=lambda one: "candidate" in one.around[-1].classes)
        return {one.text.rpartition(":")[0]: one.around[-1] for one in titles}

    def rows(self) -> dict[str, list[str]]:
        """The cells of each row of the table, by the row's heading; candidates go before stages."""
        heads = [one for one in self.all("th") if one.attributes.get("scope") == "row"]
        return {head.text: [one.text for one in self.all("td") if one.around[-1] is head.around[-1]] for head in heads}


def cost(decode_ms: float) -> Cost:
    return Cost(
        load_ms=1, ttft_ms=1, fixed_ms=5, prefill_ms_per_token=2, decode_ms_per_token=decode_ms,
        peak_rss_bytes=300_000_000, threads=2, runtime="test",
    )  # fmt: skip


def accuracy(drop: float) -> Accuracy:
    return Accuracy(
        metric="next_token_accuracy", reference=45, value=45 - drop, drop_points=drop, drop_low_points=drop - 0.5,
        drop_bound_points=drop + 0.5, budget_points=1, count=4096, text="sampled", agreement=98, kl=0.0123,
        perplexity=11, reference_perplexity=10,
    )  # fmt: skip


def candidate(name: str, drop: float, decode_ms: float, *, accepted: bool = True) -> Candidate:
    return Candidate(
        name=name, accepted=accepted, reason=f"why {name}", weights_bytes=100_000_000, zeros=0.25,
        accuracy=accuracy(drop), cost=cost(decode_ms),
    )  # fmt: skip


FP32 = candidate("fp32", 0, 20)
REPORT = Report(
    profile="desktop-cpu",
    task="text-generation",
    passes=(Pass(name="quantize", parameters={"bits": 8, "weights_only": True}),),
    stages=(FP32,),
    candidates=(
        candidate("int4", 5, 5, accepted=False),
        candidate("int8", 0.2, 9),
        Candidate(name="fp16", accepted=False, reason="needs 9 GB, the device has 8"),
        candidate("lucky", -3, 15),
    ),
    reference_latency_ms=FP32.latency_ms,
    measured_on="this CPU, 2 threads",
    seconds=100,
    command="edge-export m --profile desktop-cpu",
    bundle_id="m-desktop-cpu-0123456789ab",
    path="bundles/m",
    accepted=True,
    chosen="int8",
    precision="int8",
)
NOTHING = msgspec.structs.replace(REPORT, accepted=False, chosen=None, bundle_id=None, path=None, precision=None)
BARE = Candidate(name="bare", accepted=False, reason="was not run")


def test_the_page_is_whole_and_asks_for_nothing_else() -> None:
    """It has a language, a title and a character set, and neither script nor anything to be fetched."""
    shown = Page(page(REPORT))
    assert shown.all("html")[0].attributes["lang"] == "en"
    assert REPORT.bundle_id in shown.all("title")[0].text
    assert shown.all("meta")[0].attributes == {"charset": "utf-8"}
    assert not [one for one in shown.elements if one.tag in ("script", "link", "img", "iframe", "object")]
    assert not [one for one in shown.elements if {"src", "href", "onclick", "onload"} & set(one.attributes)]
    assert not re.search(r"https?://|@import|url\(", page(REPORT))


def test_sections_stand_in_order() -> None:
    """Each question that a reader has is a heading, the verdict first."""
    shown = Page(page(REPORT))
    assert shown.all("h1")[0].text == REPORT.bundle_id
    assert [one.text for one in shown.all("h2")] == [
        "Response time, original against optimized", "Accuracy against response time", "All candidates", "Passes",
        "Engines", "The command", "How to read this",
    ]  # fmt: skip
    assert [one.text for one in shown.all("dd")] == ["accepted", "text-generation", "desktop-cpu", "int8", "100 s"]


def test_every_candidate_is_in_the_table() -> None:
    """A row each, with verdict, figures and reason under headings that say what they head."""
    shown = Page(page(REPORT))
    assert all(one.attributes["scope"] in ("col", "row", "rowgroup") for one in shown.all("th"))
    headings = [one.text for one in shown.all("th") if one.attributes["scope"] == "col"][1:]
    rows = {name: dict(zip(headings, cells, strict=True)) for name, cells in shown.rows().items()}
    assert [row["verdict"] for row in rows.values()] == ["stage", "refused", "chosen", "refused", "passesanomaly"]
    assert rows["int8"] == {
        "verdict": "chosen", "accuracy %": "44.8", "drop, points": "+0.20-0.30 to +0.70", "same answer %": "98.0",
        "KL": "0.0123", "perplexity ratio": "1.100", "MB": "100", "zeros %": "25.0", "decode ms/token": "9.00",
        "prefill ms/token": "2.00", "answer ms": "934", "peak MB": "300", "why": "why int8",
    }  # fmt: skip
    assert set(list(rows["fp16"].values())[1:-1]) == {"-"}
    assert rows["fp16"]["why"] == "needs 9 GB, the device has 8"


@pytest.mark.parametrize("drawing", ["wide", "narrow"])
def test_every_measured_candidate_is_on_the_plot(drawing: str) -> None:
    """The chosen one is marked, refused ones are hollow, and what has no figures is named beneath."""
    shown = Page(page(REPORT))
    marks = shown.marks(drawing)
    assert {name: one.classes[1:] for name, one in marks.items()} == {
        "fp32": ["stage"], "int4": ["candidate", "refused"], "int8": ["candidate", "chosen"], "lucky": ["candidate"],
    }  # fmt: skip
    assert len([one for one in shown.all("circle", "ring") if one.inside("svg", drawing)]) == 1
    svg = shown.all("svg", drawing)[0]
    ids = {one.attributes.get("id") for one in shown.elements if one.tag in ("title", "desc")}
    assert svg.attributes["role"] == "img"
    assert set(svg.attributes["aria-labelledby"].split()) <= ids
    assert "budget: 44.0%" in svg.text
    assert any(one.text.endswith("for want of an accuracy or a time: fp16.") for one in shown.all("p"))


def test_the_times_are_set_against_each_other() -> None:
    """Two bars in proportion, the factor, and where they were measured."""
    shown = Page(page(REPORT))
    widths = [one.attributes["style"] for one in shown.all("div") if one.around[-1].classes == ["track"]]
    assert widths == ["width: 100.0%", f"width: {round(100 * 934 / 1979, 2)}%"]
    assert [one.text for one in shown.all("strong") if one.inside("ul", "bars")] == ["1,979 ms", "934 ms"]
    assert shown.all("p", "factor")[0].text == "2.12\u00d7 as fast as the original"
    assert page(REPORT).count("measured on this CPU, 2 threads") >= 2


def test_an_estimate_is_called_one() -> None:
    """Figures for another device are marked; of a measured and an estimated time there is no factor."""
    theirs = tuple(msgspec.structs.replace(one, estimate=one.cost and cost(2)) for one in REPORT.candidates)
    mixed = Page(page(msgspec.structs.replace(REPORT, candidates=theirs)))
    assert not mixed.all("p", "factor")
    stage = msgspec.structs.replace(FP32, estimate=cost(6))
    report = msgspec.structs.replace(
        REPORT, candidates=theirs, stages=(stage,), reference_latency_ms=stage.latency_ms, profile="orin-nano-8"
    )
    shown = Page(page(report))
    assert [one.text for one in shown.all("div", "note")] == ["estimated for orin-nano-8"] * 2
    assert shown.all("p", "factor")[0].text.startswith("2.41\u00d7")
    assert "≈ 2.009.00 here" in shown.rows()["int8"]
    assert "≈" not in page(REPORT).replace("marked “≈”", "")


def test_text_is_text() -> None:
    """Names, reasons, commands and parameters with markup in them are shown as they are, wherever they stand."""
    report = msgspec.structs.replace(
        REPORT,
        profile=HOSTILE,
        task=HOSTILE,
        command=HOSTILE,
        bundle_id=HOSTILE,
        chosen=HOSTILE,
        measured_on=HOSTILE,
        candidates=(msgspec.structs.replace(candidate(HOSTILE, 0.2, 9), reason=HOSTILE),),
        passes=(Pass(name=HOSTILE, parameters={HOSTILE: [HOSTILE]}),),
        engines=(
            Engine(
                runtime=HOSTILE, compute_capability=HOSTILE, precision=HOSTILE, graph=HOSTILE, recipe={"f": HOSTILE}
            ),
        ),
    )  # fmt: skip
    shown = Page(page(report))
    assert not shown.all("script")
    assert shown.all("code")[0].text == HOSTILE
    assert shown.all("h1")[0].text == HOSTILE
    assert HOSTILE in shown.rows()
    assert HOSTILE in shown.marks()


def test_a_refusal_says_so() -> None:
    """Without a chosen candidate there is one bar and no mark of choice."""
    shown = Page(page(NOTHING))
    assert shown.all("h1")[0].text == "Nothing was accepted"
    assert shown.all("dd")[0].text == "refused"
    assert len(shown.all("div", "track")) == 1
    assert not [one for one in shown.all("g", "chosen") if one.inside("svg", "wide")]


def test_a_bundle_that_has_no_name_yet_is_told_by_its_candidate() -> None:
    """The page is part of what is written before the bundle's id is known."""
    shown = Page(page(msgspec.structs.replace(REPORT, bundle_id=None)))
    assert shown.all("h1")[0].text == "int8 for desktop-cpu"
    assert shown.all("dd")[0].text == "accepted"


def test_an_anomaly_of_the_chosen_one_is_told_at_the_top() -> None:
    """A bundle better than its original is not passed off as a success."""
    shown = Page(page(msgspec.structs.replace(REPORT, chosen="lucky")))
    assert [one.text for one in shown.all("span", "flag")] == ["anomaly", "anomaly"]
    assert shown.all("span", "flag")[0].inside("header")


@pytest.mark.parametrize(
    "report",
    [
        msgspec.structs.replace(NOTHING, stages=(), candidates=(BARE,), reference_latency_ms=float("inf")),
        msgspec.structs.replace(NOTHING, candidates=()),
        msgspec.structs.replace(REPORT, candidates=(candidate("int8", 0, 20),)),
        msgspec.structs.replace(REPORT, candidates=(msgspec.structs.replace(candidate("int8", 0, 9), accuracy=None),)),
        msgspec.structs.replace(REPORT, candidates=(candidate("int8", 1e300, 1e300),), reference_latency_ms=0.0),
        msgspec.structs.replace(REPORT, candidates=(candidate("int8", 0, 1e-300),), task="feature-extraction"),
        msgspec.structs.replace(REPORT, command="edge-export \udcff"),
    ],
    ids=["nothing", "no candidates", "equal", "no accuracy", "huge", "tiny", "not utf-8"],
)  # fmt: skip
def test_any_report_gives_a_page(report: Report) -> None:
    """Whatever is missing, equal or extreme, the page is whole, and no figure on it is NaN or infinite."""
    html = page(report)
    shown = Page(html)
    html.encode("utf-8")
    assert set(shown.rows()) == {one.name for one in (*report.stages, *report.candidates)}
    assert not re.search(r"\b(nan|inf)\b", html.partition("</style>")[2])


def test_what_no_candidate_has_gets_no_column() -> None:
    """An encoder has no KL, perplexity or decode, but a cosine."""
    scored = Accuracy(
        metric="cosine", reference=100, value=99.9, drop_points=0.1, drop_low_points=0, drop_bound_points=0.2,
        budget_points=1, count=64, text="t", cosine=0.99912,
    )  # fmt: skip
    one = msgspec.structs.replace(candidate("int8", 0, 0), accuracy=scored, zeros=None)
    shown = Page(page(msgspec.structs.replace(REPORT, candidates=(one,), stages=(), task="feature-extraction")))
    headings = [one.text for one in shown.all("th") if one.attributes["scope"] == "col"]
    assert headings == [
        "candidate", "verdict", "accuracy %", "drop, points", "cosine", "MB", "prefill ms/token", "answer ms",
        "peak MB", "why",
    ]  # fmt: skip
    assert "0.9991" in shown.rows()["int8"]


def test_an_engine_is_a_file_or_a_recipe() -> None:
    """Both say what they are built from; a surrogate's accuracy is called that."""
    built = Engine(
        runtime="tensorrt-rtx", compute_capability="8.6", precision="fp16", graph="model/onnx.onnx",
        path="engines/e.engine", bytes=295_000_000, seconds=11.25, surrogate=accuracy(0.1),
    )  # fmt: skip
    recipe = msgspec.structs.replace(
        built, path=None, bytes=None, seconds=None, surrogate=None, recipe={"flags": ["fp16"]}
    )
    text = [
        re.sub(r"\s+", " ", one.text)
        for one in Page(page(msgspec.structs.replace(REPORT, engines=(built, recipe)))).all("li")
    ]
    file, device = (next(one for one in text if marker in one) for marker in ("file engines", "device builds"))
    assert [part for part in ("MB 295", "surrogate accuracy", "11.2 s") if part not in file] == []
    assert "flags [fp16]" in device
    assert "file" not in device
