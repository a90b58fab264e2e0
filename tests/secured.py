"""A fleet of a test's own, and its real Mosquitto by TLS, as `edge-hub provision` writes both."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from hub.broker_url import BrokerUrl
from hub.identity_options import Identity
from hub.provision.fleet import Fleet, init
from hub.provision.register import BrokerPlace
from hub.provision.subject import Subject

MOST_CONNECTIONS = 200
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


def now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)


class SecuredFleet:
    """Identities by their folders, and a broker on loopback whose log can be read."""

    def __init__(self, folder: Path, port: int, eventually: Callable[..., None]) -> None:
        init(folder / "fleet", None, now())
        self.fleet = Fleet(folder / "fleet", None)
        self.port = port
        self.url = f"mqtts://localhost:{port}"
        self._eventually = eventually
        self._copy = folder / "mosquitto"  # the fleet's own directory is closed to the user that Mosquitto becomes
        self._log = folder / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None
        place = BrokerPlace(("localhost",), port, str(self._copy), MOST_CONNECTIONS)
        self.fleet.set_broker(place, now(), 30)

    def issue(self, role: str, name: str, **options: object) -> Path:
        """The folder of a new identity; the broker knows of it after `reload`."""
        subject = Subject(role, name, options.pop("device", None))  # type: ignore[arg-type]
        return self.fleet.issue(subject, now(), days=30, **options)  # type: ignore[arg-type]

    def identity(self, name: str) -> Identity:
        """The files of an identity, such as `device-kitchen`."""
        folder = self.fleet.folder / "issued" / name
        secret = folder / "session.key"
        names = [folder / each for each in ("ca.pem", "cert.pem", "key.pem")]
        return Identity(*names, secret if secret.exists() else None)

    def at(self, name: str, url: str | None = None) -> BrokerUrl:
        """The broker, as this identity."""
        return self.identity(name).at(url or self.url)

    def config(self, name: str) -> str:
        return str(self.fleet.folder / "issued" / name / "config.toml")

    @property
    def log(self) -> str:
        """What the broker has logged."""
        return self._log.read_text()

    def start(self) -> None:
        program = shutil.which("mosquitto", path=PATH)
        assert program is not None
        self._install()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-c", str(self._copy / "mosquitto.conf")], stdout=log, stderr=log
            )
        self._eventually(lambda: "running" in self.log)

    def reload(self) -> None:
        """Bring the broker what has changed, and tell it."""
        assert self._process is not None
        self._install()
        before = self.log.count("Reloading config")
        os.kill(self._process.pid, signal.SIGHUP)
        self._eventually(lambda: self.log.count("Reloading config") > before)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    @property
    def is_running(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def _install(self) -> None:
        shutil.copytree(self.fleet.broker_folder, self._copy, dirs_exist_ok=True)
        if os.geteuid() == 0:  # Mosquitto gives up root; its files must then be its own
            for each in [self._copy, *self._copy.rglob("*")]:
                shutil.chown(each, "mosquitto")
            for parent in self._copy.parents:
                if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:  # pytest's own
                    parent.chmod(0o755)
