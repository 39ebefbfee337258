"""Start the services of this machine, those that do not run already."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psutil

from cutlayer.errors import ConfigError, ServiceError
from cutlayer.services.local.adopting import adopted
from cutlayer.services.local.deployment import Deployment, Kind, Options, Process, State, announced
from cutlayer.services.local.down import stop
from cutlayer.services.local.ending import held, orderly
from cutlayer.services.local.health import last_words, link, look
from cutlayer.services.secrets import read_secret, write_secret

if TYPE_CHECKING:
    from cutlayer.services.api import Backend

PORT = "port"
"""File with the backend's port."""
READY_WITHIN = 180.0
"""Seconds: importing torch on a busy machine takes long."""
LOOK_EVERY = 0.05

PREFIXES = {"operator": "cl_op_", "service": "cl_svc_", "enrol": "cl_enrol_"}
_DECIDED = """
    ANNOUNCE BACKEND CA ENROL_TOKEN ENROL_TOKEN_FILE FOLDER HOST ID INSECURE NAME OPERATOR_TOKEN OPERATOR_TOKEN_FILE
    PORT PUBLIC_URL SECRET SECRET_FILE SERVER SERVICE_TOKEN SERVICE_TOKEN_FILE TLS_CERT TLS_CLIENT_CA TLS_CLIENT_CERT
    TLS_CLIENT_KEY TLS_KEY TOKEN TOKEN_FILE
"""
DECIDED = frozenset(f"CUTLAYER_{name}" for name in _DECIDED.split())
"""What this module decides; other CUTLAYER_* variables (CUTLAYER_DATABASE, CUTLAYER_STORE, ...) reach the services."""

Told = Callable[[str], None]


@dataclass(frozen=True)
class Up:
    """What ``up`` found and did: all processes, and the names of those it started."""

    processes: tuple[Process, ...]
    started: tuple[str, ...]

    @property
    def backend(self) -> Process:
        """The backend's process."""
        return next(p for p in self.processes if p.kind == "backend")

    @property
    def dashboard(self) -> Process | None:
        """The dashboard's process, if there is one."""
        return next((p for p in self.processes if p.kind == "dashboard"), None)


def up(deployment: Deployment, told: Told | None = None, ready_within: float = READY_WITHIN, **wanted: object) -> Up:
    """Start what is missing of backend, federated server, split servers, dashboard and local clients, and wait for all.

    ``wanted`` are fields of :class:`Options`; None is what the deployment had before, or the default.  ``told`` gets a
    line for every step.  What was started stays when the caller ends; it is stopped again if this fails or is
    interrupted.

    Raises ConfigError for another host, port or TLS than what runs already has, ServiceError for a service that does
    not start, with its last words.
    """
    with orderly(), deployment.locked():
        state = _prepared(deployment, {k: v for k, v in wanted.items() if v is not None})
        starting = _Starting(deployment, state, told or (lambda _: None), ready_within)
        try:
            starting.ensure(["backend"])
            starting.ensure(["fed", *(f"split-{n + 1}" for n in range(state.options.split)), *starting.shown()])
            starting.ensure([f"client-{n + 1}" for n in range(state.options.clients)])
        except BaseException:
            stop(deployment, starting.begun)
            raise
        return Up(starting.state.processes, tuple(starting.begun))


def _prepared(deployment: Deployment, wanted: dict[str, object]) -> State:
    """Write what every service needs (tokens, secret, certificates), and return the record with the wanted options."""
    before = adopted(deployment)
    options = replace(before.options, **wanted)  # type: ignore[arg-type]
    alive = [p for p in before.processes if p.alive]
    for key in ("host", "port", "tls", "insecure"):
        old, new = getattr(before.options, key), getattr(options, key)
        if alive and old != new:
            raise ConfigError(
                f"expected {key} {old}, with which the services of {deployment.folder} run, got {new}; for another one "
                "stop them first: cutlayer down"
            )
    for folder in ("logs", "announce", "tokens", "clients"):
        (deployment.folder / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    for role, prefix in PREFIXES.items():
        write_secret(deployment.token(role), prefix + secrets.token_urlsafe(32))
    write_secret(deployment.folder / "secret", secrets.token_urlsafe(48))
    if options.tls:
        _certificates(deployment, options)
    state = State(options, before.processes)
    deployment.write(state)
    return state


def _certificates(deployment: Deployment, options: Options) -> None:
    from cutlayer.services import certs

    folder = deployment.folder / "certs"
    if not (folder / "ca.pem").exists():
        certs.make_ca(folder)
    if not (folder / "services.pem").exists():
        names = dict.fromkeys(["localhost", "127.0.0.1", "::1", socket.gethostname(), options.host])
        certs.issue_server(folder, [n for n in names if n not in ("0.0.0.0", "::")], file="services")


class _Starting:
    """One ``up`` at work: the state so far, and what it started."""

    def __init__(self, deployment: Deployment, state: State, told: Told, ready_within: float) -> None:
        self.deployment, self.state, self.told = deployment, state, told
        self.begun: list[str] = []
        self._ready_within = ready_within

    def ensure(self, names: Iterable[str]) -> None:
        """Start those of ``names`` that do not run, all at once, and wait until all of them are ready."""
        until = time.monotonic() + self._ready_within
        names = list(names)
        for name in names:
            found = self.state.of(name)
            if found is not None and found.alive:
                self.told(f"{name} runs already (process {found.pid})")
            else:
                self._start(name, found)
        for name in names:
            self._await(name, until)
            process = self.state.of(name)
            if name in self.begun and process is not None:
                self.told(f"{name} is ready: {process.url}" if process.url else f"{name} has joined")

    def shown(self) -> list[str]:
        """Return the dashboard, if one is wanted; one that is open to everybody gets a token that may only read."""
        if self.state.options.open and not self.deployment.token("viewer").exists():
            with self._backend() as backend:
                write_secret(self.deployment.token("viewer"), backend.make_token("viewer", "dashboard").token)
        return ["dashboard"] if self.state.options.dashboard else []

    def _start(self, name: str, before: Process | None) -> None:
        kind: Kind = name.partition("-")[0]  # type: ignore[assignment]
        self.deployment.announce(name).unlink(missing_ok=True)
        port = before.port if before is not None else 0
        if kind == "backend":
            port = self.state.options.port or port or self._port_of_before()
        words = [*self.deployment.program, *self._command(name, kind, port)]
        environment = {k: v for k, v in os.environ.items() if k not in DECIDED} | {"PYTHONUNBUFFERED": "1"}
        with held(), open(self.deployment.log(name), "ab") as log:
            started = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
            self.begun.append(name)
            # The caller may live longer than the service: somebody has to take note of its end.
            threading.Thread(target=started.wait, name=f"reaper of {name}", daemon=True).start()
            try:
                born = psutil.Process(started.pid).create_time()
            except psutil.NoSuchProcess:
                born = time.time()
            self._record(Process(name, kind, started.pid, born, port))

    def _command(self, name: str, kind: Kind, port: int) -> list[str]:
        there, options = self.deployment, self.state.options
        folder = there.folder.absolute()
        trust = ["--ca", str(there.ca.absolute())] if options.tls else []
        trust += ["--insecure"] if options.insecure else []
        backend = self.state.of("backend")
        url = (backend.url if backend is not None else None) or ""
        if kind == "client":
            own = ["--server", url, "--token-file", str(there.token("enrol").absolute()), "--name", name]
            return ["client", *own, "--folder", str(folder / "clients" / name), "--data", "experiment", *trust]
        words = ["serve", kind, "--folder", str(folder), "--host", options.host, "--port", str(port)]
        words += ["--announce", str(there.announce(name).absolute()), *trust]
        if options.tls:
            certificate = folder / "certs" / "services"
            words += ["--tls-cert", f"{certificate}.pem", "--tls-key", f"{certificate}.key"]
        if kind == "dashboard":
            token = ["--token-file", str(there.token("viewer").absolute())] if options.open else []
            return [*words, "--backend", url, *token]
        words += ["--secret-file", str(folder / "secret")]
        if kind == "backend":
            return words + [w for role in PREFIXES for w in (f"--{role}-token-file", str(there.token(role).absolute()))]
        return [*words, "--backend", url, "--token-file", str(there.token("service").absolute()), "--id", name]

    def _await(self, name: str, until: float) -> None:
        """Wait until ``name`` is ready.  Raises ServiceError when it ends, or takes too long."""
        reason = "it does not listen yet"
        while True:
            process = self.state.of(name)
            assert process is not None
            if process.kind != "client" and process.url is None:
                process = self._listening(process)
            if process.kind == "client":
                health_is_good, reason = self._joined(name), "the backend does not know it yet"
            else:
                health = look(self.deployment, process)
                health_is_good, reason = health.condition == "ready", health.reason
            if health_is_good:
                return
            if not process.alive:
                said = last_words(self.deployment.log(name)).removeprefix("cutlayer: ")
                raise ServiceError(
                    f"{name} ended as soon as it was started{f': {said}' if said else ''}; its log is "
                    f"{self.deployment.log(name)}"
                )
            if time.monotonic() > until:
                raise ServiceError(
                    f"expected {name} to be ready within {self._ready_within:g} s, and it is not: {reason}; its log is "
                    f"{self.deployment.log(name)}"
                )
            time.sleep(LOOK_EVERY)

    def _listening(self, process: Process) -> Process:
        """Return ``process`` with where it listens, once it has said so, and record that."""
        try:
            said = json.loads(self.deployment.announce(process.name).read_text())
        except (FileNotFoundError, ValueError):
            return process
        url, port = announced(said)
        if process.kind == "backend":
            (self.deployment.folder / PORT).write_text(f"{port}\n")
        return self._record(replace(process, url=url, port=port))

    def _port_of_before(self) -> int:
        """Return the port that the backend had when it last ran, so that clients find it again; 0 if it is taken."""
        try:
            port = int((self.deployment.folder / PORT).read_text())
            with socket.create_server((self.state.options.host, port)):
                return port
        except (OSError, ValueError, OverflowError):
            return 0

    def _joined(self, name: str) -> bool:
        with self._backend() as backend:
            return any(c.name == name and c.connected for c in backend.clients())

    @contextmanager
    def _backend(self) -> Iterator[Backend]:
        from cutlayer.services.api import Backend

        backend = self.state.of("backend")
        assert backend is not None
        assert backend.url is not None
        token = read_secret(self.deployment.token("operator"), "the operator's token")
        with link(self.deployment, backend.url, token) as there:
            yield Backend(there)

    def _record(self, process: Process) -> Process:
        self.state = self.state.having(process)
        self.deployment.write(self.state)
        return process
