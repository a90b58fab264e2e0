"""The live page in a real Chromium: before a real hub and real nodes, and before what may go wrong.

Each test fails where the browser's console has an error. What was seen is kept as pictures, in the folder that
EDGEFLEET_ARTIFACTS names, else in pytest's own.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, ViewportSize, expect, sync_playwright

from hub import wire
from tests.hub.rollout.fake_fleet import FakeFleet
from tests.hub.rollout.made import make_bundle
from tests.hub.rollout.scene import BAD, GOOD, REFUSES, FakeNode

pytestmark = [pytest.mark.broker, pytest.mark.chromium, pytest.mark.slow]

HUB = "hub-1"
TOKEN = "a-token-of-some-length"
DESK: ViewportSize = {"width": 1440, "height": 1000}
PHONE: ViewportSize = {"width": 390, "height": 844}
LIMIT_MS = 20_000
MANY = 500
# Markup, a text that turns around what follows it, and a character that ends a string in C.
HOSTILE = "<img src=x onerror='window.struck=1'><script>window.struck=2</script>\"'&${7*7}\u202e\u0000"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; as root it has no sandbox of its own."""
    expect.set_options(timeout=LIMIT_MS)
    with sync_playwright() as playwright:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        yield browser
        browser.close()


class Seen:
    """A page in a browser, and what its console had to say."""

    def __init__(self, browser: Browser, folder: Path, **options: Any) -> None:
        self.page: Page = browser.new_context(viewport=DESK, reduced_motion="reduce", **options).new_page()
        self.page.set_default_timeout(LIMIT_MS)
        self.errors: list[str] = []
        self.expected = "$."  # nothing
        self._folder = folder
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def open(self, url: str) -> Page:
        self.page.goto(url)
        expect(self.page.locator("#link")).to_have_text("live")
        return self.page

    def keep(self, name: str) -> None:
        """Pictures of how it looks now: light, dark, and on a phone, where nothing may be wider than the screen."""
        for look, scheme, size in (("light", "light", DESK), ("dark", "dark", DESK), ("phone", "light", PHONE)):
            self.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            self.page.set_viewport_size(size)
            expect(self.page.locator("h1")).to_be_visible()
            self.page.screenshot(path=self._folder / f"{name}-{look}.png", full_page=look == "phone")
            width = self.page.evaluate("document.documentElement.scrollWidth")
            assert width <= size["width"], f"{name}-{look} is {width} wide"
        self.page.emulate_media(color_scheme="light")
        self.page.set_viewport_size(DESK)

    def unexpected(self) -> list[str]:
        return [error for error in self.errors if not re.search(self.expected, error)]


@pytest.fixture
def seen(browser: Browser, tmp_path: Path) -> Iterator[Seen]:
    folder = Path(os.environ.get("EDGEFLEET_ARTIFACTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    one = Seen(browser, folder)
    yield one
    one.page.context.close()
    assert one.unexpected() == []


@pytest.fixture
def hub(mosquitto: Any, processes: Any, free_port: Callable[[], int], eventually: Callable[..., None]) -> Any:
    """Starts a hub with a page, on a port that stays; called again after it has ended. Returns its URL."""
    port = free_port()

    def start(*options: str) -> str:
        with contextlib.suppress(FileNotFoundError):
            (processes.folder / "hub.log").unlink()
        command = ["edge-hub", "serve", "--broker", mosquitto.url, "--name", HUB, "--listen", str(port), *options]
        processes.start("hub", *command)
        eventually(lambda: f"hub {HUB} takes questions" in processes.log("hub"), limit_s=30)
        return f"http://127.0.0.1:{port}/"

    return start


def start_node(processes: Any, broker: str, name: str, answer_ms: int) -> None:
    command = ["python", "benchmarks/noop_node.py", "--broker", broker, "--node", name, "--no-direct"]
    processes.start(name, *command, "--answer-ms", str(answer_ms))


def row(page: Page, name: str) -> Any:
    return page.locator("#nodes tbody tr").filter(has=page.get_by_role("button", name=name, exact=True))


def publish(mosquitto: Any, topic: wire.Topic, message: bytes) -> None:
    """Retained; an empty one clears what was."""
    command = ["mosquitto_pub", "-p", str(mosquitto.port), "-V", "5", "-r", "-q", "1", "-t", str(topic)]
    command.append("-s" if message else "-n")
    subprocess.run(command, input=message, check=True, timeout=20)


def test_a_question_is_routed_where_it_is_seen(seen: Seen, hub: Any, mosquitto: Any, processes: Any) -> None:
    """Nodes appear; an answer streams in beside the choice that led there; a node that leaves is shown as gone."""
    page = seen.open(hub())
    expect(page.locator("#no-nodes")).to_have_text("No node has announced itself yet.")
    seen.keep("empty")
    start_node(processes, mosquitto.url, "near", 300)
    start_node(processes, mosquitto.url, "far", 900)
    for name in ("near", "far"):
        expect(row(page, name).locator(".badge")).to_have_text("ready")
        expect(row(page, name).locator("td").nth(3)).to_have_text(re.compile(r"^\d"))  # its distance was measured
    expect(page.locator("#ready")).to_have_text("2")

    page.get_by_label("Question", exact=True).fill("one two three four five six seven")
    page.get_by_label("Question", exact=True).press("Enter")
    expect(page.locator("#asked-route")).to_contain_text("→ near")
    expect(page.locator("#asked-end")).to_contain_text("near answered in")
    expect(page.locator("#answer")).to_have_text("one two three four five six seven")
    page.get_by_text("Why this node").click()
    expect(page.locator("#asked-decision")).to_contain_text("later for fixed")
    last = page.locator("#questions > li").filter(has_text=f"page-{HUB}")
    expect(last.locator(".badge")).to_have_text("answered")
    last.locator("summary").click()
    expect(last).to_contain_text("later for fixed")
    expect(last).to_contain_text("attempt 1 -> near")
    expect(page.locator("#answered")).to_have_text("1")
    expect(page.locator("#delay-chart")).to_have_attribute("aria-label", re.compile("overhead"))
    row(page, "near").get_by_role("button", name="near", exact=True).click()
    expect(page.locator("tr.detail")).to_contain_text("noop-desktop-cpu")
    seen.keep("asked")

    processes.end("far")
    expect(row(page, "far").locator(".badge")).to_have_text("gone")
    expect(page.locator("#ready")).to_have_text("1")
    publish(mosquitto, wire.Topic("node_state", "far"), b"")
    expect(row(page, "far")).to_have_count(0)


def test_draining_is_asked_for_and_confirmed(seen: Seen, hub: Any, mosquitto: Any, processes: Any) -> None:
    """By keyboard alone: what is not confirmed is not done, and the page shows what the node makes of it."""
    start_node(processes, mosquitto.url, "near", 30)
    page = seen.open(hub())
    badge = row(page, "near").locator(".badge")
    expect(badge).to_have_text("ready")
    page.get_by_role("button", name="Drain near").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Drain near?")
    expect(page.get_by_role("button", name="Cancel")).to_be_focused()
    seen.keep("confirm")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")  # on Cancel, which has the focus
    expect(dialog).to_be_hidden()
    expect(badge).to_have_text("ready")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(badge).to_have_text("draining")
    seen.keep("draining")
    page.get_by_label("Question", exact=True).fill("anybody?")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#answer")).to_contain_text("no_node")
    page.get_by_role("button", name="Undrain near").click()
    page.get_by_role("dialog").get_by_role("button", name="Undrain").click()
    expect(badge).to_have_text("ready")


def test_a_stream_that_breaks_goes_on_by_itself(seen: Seen, hub: Any, mosquitto: Any, processes: Any) -> None:
    """The page says that what it shows is old; when the hub is back it shows the present."""
    seen.expected = "ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_CONNECTION_RESET"
    start_node(processes, mosquitto.url, "near", 30)
    page = seen.open(hub())
    expect(row(page, "near").locator(".badge")).to_have_text("ready")
    processes.end("hub")
    expect(page.locator("#link")).to_contain_text("connection lost")
    page.get_by_label("Question", exact=True).fill("anybody?")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#answer")).to_contain_text("The hub was lost")
    seen.keep("lost")
    processes.end("near")
    start_node(processes, mosquitto.url, "other", 30)
    hub()
    expect(page.locator("#link")).to_have_text("live")
    expect(row(page, "other").locator(".badge")).to_have_text("ready")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#asked-end")).to_contain_text("other answered")


def test_hundreds_of_nodes(seen: Seen, hub: Any, mosquitto: Any, processes: Any) -> None:
    """All of them are there, kept up to date in place, found by a word and put in order."""
    url = hub()
    command = ["python", "benchmarks/bare_nodes.py", "--broker", mosquitto.url, "--nodes", str(MANY), "--together"]
    processes.start("crowd", *command, "--states-per-minute", "6000")
    page = seen.open(url)
    expect(page.locator("#nodes tbody tr")).to_have_count(MANY)
    expect(page.locator("#nodes tbody tr td:first-child").nth(2)).to_have_text("bare-2")  # not bare-10
    decode = row(page, "bare-7").locator("td").nth(7)
    page.evaluate("window.kept = document.querySelector('#nodes tbody tr:nth-child(8)')")
    before = decode.text_content() or ""
    expect(decode).not_to_have_text(before)
    assert page.evaluate("window.kept.isConnected && window.kept.textContent.includes('bare-7')")
    expect(page.locator("#known")).to_have_text(f"of {MANY}")
    seen.keep("many")
    page.get_by_label("Show only nodes that match").fill("bare-49 noop")
    expect(page.locator("#nodes-count")).to_have_text(f"11 of {MANY}")
    expect(page.locator("#nodes tbody tr:visible")).to_have_count(11)
    page.get_by_label("Show only nodes that match").fill("")
    head = page.locator("th[data-sort=name]")
    head.get_by_role("button").click()
    expect(head).to_have_attribute("aria-sort", "descending")
    expect(page.locator("#nodes tbody tr td:first-child").first).to_have_text(f"bare-{MANY - 1}")


def test_rollouts_are_followed(
    seen: Seen, hub: Any, mosquitto: Any, processes: Any, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """How far each is, who did not take it and why, whatever that says; without any there is nothing to see."""
    root, bundle = tmp_path / "site", make_bundle(tmp_path / "v2", version=2)
    url = hub("--bundles", str(root), "--bundles-listen", str(free_port()))
    deploy = ["edge-hub", "deploy", str(bundle), "--bundles", str(root), "--to", "all", "--trial", "5"]
    nodes = {f"fake-{number:02}": FakeNode(REFUSES if number == 7 else GOOD) for number in range(30)}
    nodes["fake-07"].why = HOSTILE[:-2]
    nodes["fake-08"].course = ("fetching", "warming")
    fleet = FakeFleet(mosquitto.url, nodes)
    try:
        page = seen.open(url)
        panel = page.locator("#rollouts")
        expect(page.locator("#ready")).to_have_text("30")
        expect(panel).to_be_hidden()
        options = ["--name", "good", "--canary", "50%", "--max-failure", "50%"]
        assert processes.run(*deploy, *options).returncode == 0
        good = panel.locator("li").filter(has=page.get_by_text("good", exact=True))
        expect(good).to_contain_text("wave 1 of 2, 30 nodes")
        expect(good).to_contain_text("13 serving")
        expect(good).to_contain_text("1 warming")
        expect(good).to_contain_text("15 queued")
        expect(good.locator(".badge")).to_have_text("active")
        good.get_by_text("1 node without it").click()
        expect(good).to_contain_text("fake-07 failed: <img src=x onerror='window.struck=1'>")
        nodes["fake-08"].left = ["serving"]
        expect(good.locator(".badge")).to_have_text("done")
        expect(good.locator("details")).to_have_attribute("open", "")
        for node in nodes.values():
            node.course, node.why = BAD, "3 of 40 questions failed, at most 2% may"
        make_bundle(bundle, version=3, extra=b"3")
        assert processes.run(*deploy, "--name", "bad", "--wait").returncode == 1
        bad = panel.locator("li").filter(has=page.get_by_text("bad", exact=True))
        expect(bad.locator(".badge")).to_have_text("stopped")
        expect(bad).to_contain_text("at most 2% may")
        expect(panel.locator("li b").first).to_have_text("bad")
        seen.keep("rollouts")
        assert page.evaluate("window.struck") is None
    finally:
        fleet.close()


def test_foreign_text_stays_text(seen: Seen, hub: Any, mosquitto: Any, processes: Any) -> None:
    """Whatever nodes, askers and answers say: it is shown as it is, and nothing of it is done."""
    bundle = wire.ServedBundle(
        bundle=HOSTILE, model=HOSTILE, task="text-generation", context=99, runtime=HOSTILE, why=HOSTILE,
        fixed_ms=1.0, prefill_ms_per_token=0.0, decode_ms_per_token=0.0,
    )  # fmt: skip
    machine = wire.Machine(power_w=1.0, power_mode=HOSTILE)
    state = wire.NodeState(epoch=1, status="ready", bundles=(bundle,), machine=machine)
    publish(mosquitto, wire.Topic("node_state", "hostile"), wire.encode(state))
    start_node(processes, mosquitto.url, "constructor", 30)
    page = seen.open(hub())
    page.on("dialog", lambda dialog: seen.errors.append(dialog.message))
    expect(row(page, "constructor").locator(".badge")).to_have_text("ready")
    expect(row(page, "hostile")).to_contain_text("<img src=x onerror")
    row(page, "hostile").get_by_role("button", name="hostile", exact=True).click()
    expect(page.locator("tr.detail")).to_contain_text("<script>window.struck=2</script>")
    page.locator("#model").select_option(label="noop (text-generation)")
    page.get_by_label("Question", exact=True).fill(HOSTILE[:-2])
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#answer")).to_contain_text("<img src=x onerror='window.struck=1'>")
    ask = {"id": HOSTILE[:-1], "question": HOSTILE, "model": HOSTILE, "deadline_ms": 1000}  # no control character
    command = ["mosquitto_pub", "-p", str(mosquitto.port), "-V", "5", "-q", "1", "-t", "edge/v1/ask/intruder", "-s"]
    subprocess.run(command, input=msgspec.json.encode(ask), check=True, timeout=20)
    last = page.locator("#questions > li").filter(has_text="intruder")
    last.locator("summary").click()
    expect(last).to_contain_text("question intruder/<img src=x onerror")
    seen.keep("hostile")
    assert page.evaluate("window.struck") is None
    assert page.locator("main img").count() == 0


def test_a_browser_logs_in(seen: Seen, hub: Any, mosquitto: Any, tmp_path: Path) -> None:
    """With a token of the file; a wrong one is said to be wrong, and who logs out is out."""
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN + "\n")
    url = hub("--token-file", str(tokens))
    page = seen.page
    page.goto(url)
    expect(page).to_have_url(re.compile("/login$"))
    seen.keep("login")
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert").first).to_have_text("That is no token of this hub.")
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#link")).to_have_text("live")
    assert page.evaluate("document.cookie") == ""
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_url(re.compile("/login$"))
    page.goto(url)
    expect(page).to_have_url(re.compile("/login$"))
