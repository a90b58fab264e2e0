"""What several test folders share: brokers, ports, waiting for a condition, and no silent skips."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from hub.broker import EmbeddedBroker
from tests import postgresql
from tests.secured import SecuredFleet

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as edge-export does, before anything loads PyTorch

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")  # how fast a machine is decides no test

ROOT = Path(__file__).resolve().parent.parent
GGUF = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"

MADE_BUNDLE = os.environ.get("EDGEFLEET_BUNDLE")  # an fp32 bundle of SmolLM2 made before: spares its export
EXPORT_LIMIT_S = 600  # it takes two minutes beside the other tests

EXPORT_FOLDER = "EDGEFLEET_TEST_EXPORT"  # of the environment, which the processes of a run share

_skipped: list[str] = []


class Export:
    """SmolLM2 exported by the command, in the background while other tests run: it takes two minutes.

    One for all processes of a run, in the `folder` that they share: whoever comes first starts it, all take its bundle.
    """

    def __init__(self, folder: Path) -> None:
        self.output = folder / "smollm2"
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        try:
            (folder / "begun").mkdir()
        except FileExistsError:
            return
        text = "".join((ROOT / name).read_text() for name in ("LICENSE", "README.md", "CONTRIBUTING.md"))
        text = text[:18_900]  # about 4,400 tokens; the gate wants 4,096, and more would only take longer
        rows = [{"text": text[start : start + 2000]} for start in range(0, len(text), 2000)]
        (folder / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = ["edge-export", "--model", str(GGUF), "--profile", "desktop-cpu", "--precision", "fp32"]
        command += ["--eval", str(folder / "text.jsonl"), "--output", str(self.output)]
        command[0] = str(Path(sys.executable).parent / command[0])
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def bundle(self) -> Path:
        """The bundle, once it is there: it appears whole."""
        eventually(lambda: self._failed() or self.output.exists(), EXPORT_LIMIT_S)
        assert self.output.exists(), self._log.read_text()
        return self.output

    def end(self, *, is_wanted: bool) -> None:
        """Where it `is_wanted`, another process of the run may still wait for it."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(EXPORT_LIMIT_S if is_wanted else 0)
            self._process.kill()
            self._process.wait()

    def _failed(self) -> bool:
        return self._process is not None and self._process.poll() not in (None, 0)


_export: list[Export] = []


def pytest_configure(config: pytest.Config) -> None:
    """A folder for all processes of this run."""
    if EXPORT_FOLDER not in os.environ:
        folder = tempfile.mkdtemp(prefix="edgefleet-test-bundle-")
        os.environ[EXPORT_FOLDER] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start the export with the first test of a run that has tests that need it."""
    wanted = any(each.get_closest_marker("model") for each in item.session.items) and MADE_BUNDLE is None
    if wanted and GGUF.exists() and not _export:
        _export.append(Export(Path(os.environ[EXPORT_FOLDER])))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the real model last, when its export is done; skip, with the reason, what this machine cannot run.

    Those of whole fleets come late: with what they start they need the machine.
    """
    items.sort(key=lambda item: (item.get_closest_marker("model") is not None, "tests/end_to_end/" in item.nodeid))
    for item in items:
        if item.get_closest_marker("broker") and not shutil.which("mosquitto", path=_path_with_sbin()):
            item.add_marker(pytest.mark.skip(reason="Mosquitto is not installed (apt-get install mosquitto)"))
        if item.get_closest_marker("prometheus") and not shutil.which("promtool"):
            item.add_marker(pytest.mark.skip(reason="promtool is not installed (apt-get install prometheus)"))
        if item.get_closest_marker("postgresql") and not postgresql.is_installed():
            item.add_marker(pytest.mark.skip(reason="PostgreSQL is not installed (apt-get install postgresql)"))
        if item.get_closest_marker("chromium") and not shutil.which("chromium"):
            item.add_marker(pytest.mark.skip(reason="Chromium is not installed (apt-get install chromium)"))
        if item.get_closest_marker("openssl") and not shutil.which("openssl"):
            item.add_marker(pytest.mark.skip(reason="openssl is not installed (apt-get install openssl)"))
        if item.get_closest_marker("model") and not GGUF.exists():
            item.add_marker(pytest.mark.skip(reason=f"{GGUF.name} is not in models/ (make models)"))
        if item.get_closest_marker("gpu") and not shutil.which("nvidia-smi"):
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail") and "gpu" not in report.keywords:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the export; where EDGEFLEET_NO_SKIPS is set, a skip that is not for want of a GPU fails the run."""
    for export in _export:
        export.end(is_wanted=hasattr(session.config, "workerinput"))
    if os.environ.get("EDGEFLEET_NO_SKIPS") and _skipped and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if os.environ.get("EDGEFLEET_NO_SKIPS") and _skipped:
        terminalreporter.write_line(f"EDGEFLEET_NO_SKIPS: {len(_skipped)} tests were skipped: failing", red=True)


def _path_with_sbin() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


def eventually(condition: Callable[[], object], limit_s: float = 10.0) -> None:
    """Return as soon as `condition` holds; fail after `limit_s`."""
    waiter = threading.Event()
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"did not happen within {limit_s} s"
        waiter.wait(0.01)


@pytest.fixture(name="eventually", scope="session")
def _eventually() -> Callable[..., None]:
    return eventually


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A port that nobody listens on."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


class Mosquitto:
    """A real Mosquitto on loopback with persistence, which a test may kill and start again."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.url = f"mqtt://127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None
        config = f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
        config += f"persistence_location {folder}/\nautosave_interval 1\n"
        (folder / "mosquitto.conf").write_text(config)

    def start(self) -> None:
        program = shutil.which("mosquitto", path=_path_with_sbin())
        assert program is not None
        if os.geteuid() == 0:  # Mosquitto gives up root; its files must then be its own
            shutil.chown(self.folder, "mosquitto")
            for parent in self.folder.parents:
                if parent.stat().st_uid == 0 and not parent.stat().st_mode & stat.S_IXOTH:  # pytest's own
                    parent.chmod(0o755)
        self._process = subprocess.Popen(
            [program, "-c", str(self.folder / "mosquitto.conf")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self._listens)

    def stop(self, *, kill: bool = False) -> None:
        if self._process is not None:
            self._process.kill() if kill else self._process.terminate()
            self._process.wait(10)
            self._process = None

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
            return True
        assert self._process is None or self._process.poll() is None, "mosquitto ended at once"
        return False


@pytest.fixture(scope="session")
def _postgresql(free_port: Callable[[], int]) -> Iterator[postgresql.PostgreSQL]:
    server = postgresql.PostgreSQL(free_port())
    server.start()
    yield server
    if server.is_up():
        server.stop()
    server.remove()


@pytest.fixture(name="postgresql")
def _empty_postgresql(_postgresql: postgresql.PostgreSQL) -> postgresql.PostgreSQL:
    """A PostgreSQL whose database is empty; a test that stops it starts it again."""
    if not _postgresql.is_up():
        _postgresql.start()
    _postgresql.empty()
    return _postgresql


@pytest.fixture
def mosquitto(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Mosquitto]:
    """A Mosquitto of the test's own."""
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    broker = Mosquitto(folder, free_port())
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[SecuredFleet]:
    """A fleet whose Mosquitto lets nobody in but by certificate; the tests of a file share it."""
    fleet = SecuredFleet(tmp_path_factory.mktemp("secured"), free_port(), eventually)
    yield fleet
    fleet.stop()


@pytest.fixture(params=["embedded", pytest.param("mosquitto", marks=pytest.mark.broker)])
def broker_url(request: pytest.FixtureRequest, free_port: Callable[[], int]) -> Iterator[str]:
    """A broker of the test's own, once each kind that is supported."""
    if request.param == "mosquitto":
        yield request.getfixturevalue("mosquitto").url
    else:
        with EmbeddedBroker("127.0.0.1", free_port()) as broker:
            yield broker.url


class Running:
    """Something with `run` and `stop`, run in a thread of its own; what it raised is kept."""

    def __init__(self, service: object) -> None:
        self.service = service
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.service.run()  # type: ignore[attr-defined]
        except BaseException as error:  # shown by the test
            self.error = error

    def stop(self) -> None:
        self.service.stop()  # type: ignore[attr-defined]
        self._thread.join(10)
        assert not self._thread.is_alive(), "did not stop"

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()


@pytest.fixture
def running() -> Iterator[Callable[[object], Running]]:
    """Run services in threads; all are stopped at the end."""
    started: list[Running] = []

    def run(service: object) -> Running:
        started.append(Running(service))
        return started[-1]

    yield run
    for each in reversed(started):
        each.stop()


@pytest.fixture(scope="session")
def bin_folder() -> Path:
    """Where the commands of this environment lie."""
    return Path(sys.executable).parent


@pytest.fixture(scope="session")
def bundle() -> Path:
    """SmolLM2 as `edge-export` writes it, in fp32; one export for all tests that need it."""
    return _export[0].bundle() if MADE_BUNDLE is None else Path(MADE_BUNDLE)


@pytest.fixture(scope="session")
def int8_bundle(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle with its graph quantized to int8; its figures are still those of fp32."""
    import onnx_ir as ir

    from edge_agent.bundle import open_bundle, write_bundle
    from exporter.graph_file import write_graph
    from exporter.quantize import matrices, rewrite
    from exporter.rounding import round_to_nearest

    folder = tmp_path_factory.mktemp("bundles")
    staging = Path(shutil.copytree(bundle, folder / "staging"))
    manifest = open_bundle(bundle).manifest
    (staging / "manifest.json").unlink()
    shutil.rmtree(staging / "model")
    graph = ir.load(bundle / manifest.graphs[0].path)
    rewrite(graph, {name: round_to_nearest(one.rows, 8) for name, one in matrices(graph).items()})
    path = staging / manifest.graphs[0].path
    path.parent.mkdir()
    write_graph(graph, path)
    write_bundle(staging, folder / "int8", manifest)
    return folder / "int8"
