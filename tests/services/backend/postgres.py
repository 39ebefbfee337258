"""A PostgreSQL server of one's own, in a temporary folder, on a loopback port."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")


def binaries() -> Path | None:
    """Return the folder that holds initdb and pg_ctl, None if PostgreSQL is not installed."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    folders = [p for place in PLACES for p in sorted(Path("/").glob(place.lstrip("/"))) if (p / "initdb").exists()]
    return folders[-1] if folders else None


class Server:
    """A running server; `stop` and `start` it at will."""

    def __init__(self, folder: Path) -> None:
        found = binaries()
        assert found is not None
        self.folder, self.bin = folder, found
        self.data = folder / "data"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._as: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}

    def make(self) -> None:
        """Make an empty cluster."""
        if self._as:
            account = pwd.getpwnam("postgres")
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        self._run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = (
            f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off -c shared_buffers=16MB "
            "-c max_connections=200"
        )
        self._run("pg_ctl", "-D", str(self.data), "-l", str(self.folder / "log"), "-o", options, "-w", "start")

    def stop(self) -> None:
        """Stop it at once; connections break."""
        self._run("pg_ctl", "-D", str(self.data), "-m", "immediate", "-w", "stop")

    def database(self) -> str:
        """Return the URL of an empty database, always the same: what was in it is gone."""
        wipe = "DROP SCHEMA IF EXISTS public CASCADE", "CREATE SCHEMA public"
        flags = [flag for command in wipe for flag in ("-c", command)]
        self._run("psql", "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", *flags)
        return f"postgresql+asyncpg://postgres@127.0.0.1:{self.port}/postgres"

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self.bin / program), *arguments],
            check=True,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self._as,
        )


@contextmanager
def server() -> Iterator[Server]:
    """Yield a running server that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="cutlayer-pg-"))
    found = Server(folder)
    found.make()
    found.start()
    try:
        yield found
    finally:
        found.stop()
        shutil.rmtree(folder)
