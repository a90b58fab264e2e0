"""A real PostgreSQL on a free port of loopback, for tests that may stop it and start it again."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

_PLACES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)  # Debian's, not on the PATH
_PATH = os.pathsep.join([os.environ.get("PATH", ""), *map(str, _PLACES)])


def is_installed() -> bool:
    return shutil.which("initdb", path=_PATH) is not None


class PostgreSQL:
    """One cluster in a folder of its own; `url` is that of its database `fleet`."""

    def __init__(self, port: int) -> None:
        self._folder = tempfile.mkdtemp(prefix="edgefleet-test-postgresql-")
        self._as_other = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # it refuses to run as root
        if self._as_other:
            shutil.chown(self._folder, "postgres", "postgres")
        self._data = f"{self._folder}/data"
        self._run("initdb", "--pgdata", self._data, "--auth", "trust", "--username", "fleet", "--no-sync")
        settings = f"port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nfsync = off\n"
        Path(self._folder, "data", "postgresql.auto.conf").write_text(settings)
        self.port = port
        self.url = f"postgresql://fleet@127.0.0.1:{port}/fleet"

    def start(self) -> None:
        self._run("pg_ctl", "--pgdata", self._data, "--log", f"{self._folder}/log", "--wait", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "--pgdata", self._data, "--mode", "immediate", "--wait", "stop")

    def empty(self) -> None:
        """A new database `fleet`; whoever is connected to the old one is not any more."""
        for statement in ("DROP DATABASE IF EXISTS fleet WITH (FORCE)", "CREATE DATABASE fleet"):
            self._run("psql", "--host", "127.0.0.1", "--port", str(self.port), "--username", "fleet", "--dbname",
                      "postgres", "--quiet", "--command", statement)  # fmt: skip

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def is_up(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _run(self, program: str, *arguments: str) -> None:
        found = shutil.which(program, path=_PATH)
        assert found is not None, f"{program} is not installed"
        command = [*self._as_other, found, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd="/")
        assert done.returncode == 0, done.stdout + done.stderr
