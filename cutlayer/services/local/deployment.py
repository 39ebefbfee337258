"""The folder of the services on this machine: which processes belong to it, and where everything lies.

services.json   the processes, with their process ids and start times, and how they were started
logs/           one file per process
tokens/         operator, service, enrol, viewer; readable by their owner only
secret          what tickets are signed with
announce/       where each service listens, written by itself
port            the backend's, which it gets again
certs/          certificates, where the services speak TLS
cutlayer.db     the database · artifacts/ · store/ the services' files · clients/ folders of local clients
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import psutil

from cutlayer.errors import ConfigError, ServiceError

Kind = Literal["backend", "fed", "split", "dashboard", "client"]
KINDS: tuple[Kind, ...] = ("backend", "fed", "split", "dashboard", "client")
FOLDER = Path(".cutlayer")
RECORD = "services.json"
PROGRAM = (sys.executable, "-m", "cutlayer.cli")
CLOCK = 2.0
"""Seconds by which a start time may seem to differ when the system's clock was set in between."""


@dataclass(frozen=True)
class Process:
    """A process of the deployment.  ``url`` reaches it from this machine; None before it has said where, or a client.

    A process id is used again after a while: only with its start time does it name a process.
    """

    name: str
    kind: Kind
    pid: int
    started: float
    port: int = 0
    url: str | None = None

    @property
    def alive(self) -> bool:
        """Whether exactly this process runs."""
        return self.found() is not None

    def found(self) -> psutil.Process | None:
        """Return the running process, None if it has ended or its id belongs to another one."""
        try:
            process = psutil.Process(self.pid)
            mine = abs(process.create_time() - self.started) < CLOCK and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if mine else None


@dataclass(frozen=True)
class Options:
    """How the services were started, so that a missing one is started alike."""

    host: str = "127.0.0.1"
    port: int = 0
    split: int = 2
    clients: int = 0
    tls: bool = False
    insecure: bool = False
    dashboard: bool = True
    open: bool = False
    """Whoever reaches the dashboard may look, without signing in."""


@dataclass(frozen=True)
class State:
    """What ``services.json`` says."""

    options: Options = Options()
    processes: tuple[Process, ...] = ()

    def of(self, name: str) -> Process | None:
        """Return the process called ``name``, alive or not."""
        return next((p for p in self.processes if p.name == name), None)

    def having(self, process: Process) -> State:
        """Return the state with ``process`` in place of the one of its name."""
        return replace(self, processes=(*(p for p in self.processes if p.name != process.name), process))


@dataclass(frozen=True)
class Deployment:
    """A folder with services.  ``program`` is what starts a process of them."""

    folder: Path = FOLDER
    program: tuple[str, ...] = field(default_factory=lambda: PROGRAM)

    @property
    def record(self) -> Path:
        return self.folder / RECORD

    @property
    def ca(self) -> Path:
        return self.folder / "certs" / "ca.pem"

    def log(self, name: str) -> Path:
        """Where the process called ``name`` writes."""
        return self.folder / "logs" / f"{name}.log"

    def token(self, role: str) -> Path:
        """Where the deployment's own token of ``role`` stands: operator, service, enrol, or viewer."""
        return self.folder / "tokens" / role

    def announce(self, name: str) -> Path:
        """Where the service called ``name`` says where it listens."""
        return self.folder / "announce" / f"{name}.json"

    def read(self) -> State:
        """Return what is recorded, nothing where there is no record.  Raises ServiceError for one that is torn."""
        try:
            found = json.loads(self.record.read_text(encoding="utf-8"))
            return State(Options(**found["options"]), tuple(Process(**each) for each in found["processes"]))
        except FileNotFoundError:
            return State()
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ServiceError(
                f"expected the record of the services in {self.record}, and it cannot be read ({error}); see with ps "
                "whether services still run, then delete it"
            ) from None

    def write(self, state: State) -> None:
        """Replace the record whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content: dict[str, Any] = {"options": asdict(state.options), "processes": [asdict(p) for p in state.processes]}
        part = self.record.with_name(f".{RECORD}.{os.getpid()}")
        try:
            with open(part, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=1)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self.record)
        finally:
            part.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands from starting or stopping services here.  Raises ServiceError while one does."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = open(self.folder / ".lock", "w")  # noqa: SIM115 (closed below)
        except OSError as error:
            raise ConfigError(f"{self.folder} cannot be used for services: {error.strerror or error}") from None
        with file:
            if sys.platform != "win32":
                import fcntl

                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise ServiceError(
                        f"another cutlayer starts or stops the services of {self.folder} at this moment; wait for it, "
                        "then try again"
                    ) from None
            yield


def announced(listening: Mapping[str, Any]) -> tuple[str, int]:
    """Return the URL that reaches a service from this machine, and its port, of what it announced."""
    url, port = str(listening["url"]), int(listening["port"])
    scheme = url.partition(":")[0]
    wild = listening["host"] in ("0.0.0.0", "::")
    return (f"{scheme}://127.0.0.1:{port}" if wild else url), port


def nearest(start: Path | None = None) -> Deployment | None:
    """Return the deployment in the working directory or the nearest one above that has a record, None if none has."""
    here = (start or Path.cwd()).absolute()
    for folder in (here, *here.parents):
        if (folder / FOLDER / RECORD).is_file():
            return Deployment(folder / FOLDER if folder != here or start else FOLDER)
    return None
