"""What split and federated servers have in common: a backend that they work for, a store, tasks, and a heartbeat."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import uuid4

from cutlayer import targets
from cutlayer.errors import ConfigError, CutlayerError, DataError, StoreError
from cutlayer.faults import point
from cutlayer.roles.replica import NotYet
from cutlayer.services import logs, tracing
from cutlayer.services.api import Backend
from cutlayer.services.connection import Interrupted
from cutlayer.services.errors import Conflict, NotFound, ServiceError
from cutlayer.services.http import Link, Tls
from cutlayer.services.protocol import ENDED, Task, WorkerKind
from cutlayer.services.runs import Runs
from cutlayer.services.secrets import store_credentials_from_files
from cutlayer.services.settings import WorkerSettings
from cutlayer.services.traced_store import TracedStore
from cutlayer.services.web import Listening
from cutlayer.store import ObjectStore, TensorStore

log = logging.getLogger(__name__)

BEAT = 1.0
"""Seconds between two heartbeats of a service."""
AGAIN = 0.05
"""Seconds before a task that waits for files of another replica looks again."""

Do = Callable[[Task], dict[str, Any]]


@dataclass
class Connection:
    """The backend and the store of one worker."""

    kind: WorkerKind
    name: str
    settings: WorkerSettings
    link: Link
    backend: Backend
    store: TensorStore
    runs: Runs
    stop: threading.Event

    def check(self) -> None:
        """Raise where the store or the backend is away."""
        self.store.list("runs/-")
        quick = Link(self.settings.backend, tls=_tls(self.settings), patience=0.0, insecure=self.settings.insecure)
        try:
            Backend(quick).ready()
        finally:
            quick.close()

    def close(self) -> None:
        """End all waiting."""
        self.stop.set()
        self.link.interrupt()


def connect(settings: WorkerSettings, kind: WorkerKind) -> Connection:
    """Return a worker's connection to its backend and store.  Raises ConfigError or StoreError where it cannot."""
    settings.check()
    own = (settings.data.partition(":")[0],) if ":" in settings.data else ()
    targets.restrict((*settings.allow, *own))
    store_credentials_from_files(os.environ)
    stop = threading.Event()
    link = Link(
        settings.backend,
        token=settings.service_token(),
        tls=_tls(settings),
        patience=None,
        stop=stop,
        insecure=settings.insecure,
    )
    backend = Backend(link)
    name = settings.id or f"{kind}-{socket.gethostname()}-{uuid4().hex[:8]}"
    store: TensorStore = ObjectStore(settings.store_url, sync=settings.sync)
    if settings.trace is not None:
        store = TracedStore(store)
    runs = Runs(backend, settings.device, settings.threads)
    return Connection(kind, name, settings, link, backend, store, runs, stop)


def _tls(settings: WorkerSettings) -> Tls:
    return Tls(settings.ca, settings.tls_client_cert, settings.tls_client_key)


class Where:
    """The URL of this process, known once it listens."""

    def __init__(self) -> None:
        self.url = ""

    def announce(self, listening: Listening) -> None:
        """Remember where the process listens."""
        self.url = listening.url

    def __call__(self) -> str:
        return self.url


class Worker(threading.Thread):
    """Does the backend's tasks for this kind of service, one after the other, in the thread that computes."""

    def __init__(self, connection: Connection, do: Do, compute: Executor) -> None:
        super().__init__(name="tasks", daemon=True)
        self._connection, self._do, self._compute = connection, do, compute

    def run(self) -> None:
        """Ask for tasks until the process stops."""
        c = self._connection
        untidy = True
        while not c.stop.is_set():
            try:
                if untidy:
                    _tidy_if_possible(c)
                task = c.backend.next_task(c.kind, c.name)
                if task is not None:
                    self._work(task)
                untidy = task is not None and task.kind == "conclude"
            except Interrupted:
                return
            except ServiceError as error:
                log.warning("cannot ask for tasks: %s", error)
                c.stop.wait(1.0)
            except Exception:
                log.exception("a task failed in a way that was not foreseen")
                c.stop.wait(1.0)

    def _work(self, task: Task) -> None:
        c = self._connection
        with logs.about(run=task.run, round=task.round), tracing.span(task.kind, run=task.run, round=task.round):
            done = threading.Event()
            beat = threading.Thread(target=self._beat, args=(task, done), daemon=True)
            beat.start()
            try:
                result = self._until_ready(task)
                point("worker.task.before_result")
                c.backend.result(task.id, result, c.name)
                point("worker.task.after_result")
            except Interrupted:
                raise
            except Conflict as error:
                log.info("task %s is not wanted any more: %s", task.kind, error)
            except CutlayerError as error:
                retryable = isinstance(error, StoreError) or (isinstance(error, ServiceError) and error.status >= 500)
                log.warning("task %s failed: %s", task.kind, error)
                c.backend.error(task.id, str(error), retryable, c.name)
            except Exception as error:
                log.exception("task %s failed", task.kind)
                c.backend.error(task.id, f"{type(error).__name__}: {error}"[:1000], False, c.name)
            finally:
                done.set()

    def _until_ready(self, task: Task) -> dict[str, Any]:
        """Do a task; if it needs what is still on its way, do it again a little later."""
        while True:
            future: Future[dict[str, Any]] = self._compute.submit(self._do, task)
            try:
                return future.result()
            except NotYet as reason:
                log.debug("task %s waits: %s", task.kind, reason)
                if self._connection.stop.wait(AGAIN):
                    raise Interrupted("interrupted") from None

    def _beat(self, task: Task, done: threading.Event) -> None:
        while not done.wait(task.lease_seconds / 3):
            with contextlib.suppress(ServiceError):
                self._connection.backend.heartbeat(task.id, owner=self._connection.name)


def _tidy_if_possible(connection: Connection) -> None:
    """Tidy up; a store that does not let itself be tidied is no reason not to work."""
    try:
        tidy(connection)
    except StoreError as error:
        log.warning("what ended runs have left stays in the store: %s", error)


def tidy(connection: Connection) -> None:
    """Delete what ended runs have left in the store, except for the lists of the batches that counted."""
    for run in sorted({path.split("/")[1] for path in connection.store.list("runs")}):
        folder = f"runs/{run}"
        left = [path for path in connection.store.list(folder) if not path.startswith(f"{folder}/states/rounds/")]
        if not left:
            continue
        try:
            ended = connection.backend.run(run).state in ENDED
        except NotFound:
            continue  # another deployment's
        for path in left if ended else ():
            connection.store.delete(path)


class Peered(Protocol):
    """Wants to know how many replicas of its kind are alive."""

    peers: int


class Pulse(threading.Thread):
    """Tells the backend, every second, that this process is alive and how it is."""

    def __init__(
        self,
        connection: Connection,
        where: Callable[[], str],
        stats: Callable[[], dict[str, Any]],
        peered: Peered | None = None,
    ) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._connection, self._where, self._stats, self._peered = connection, where, stats, peered

    def run(self) -> None:
        """Beat until the process stops."""
        c = self._connection
        while not c.stop.is_set():
            url = self._where()
            if url:
                try:
                    found = c.backend.service_heartbeat(c.kind, c.name, url, self._stats())
                    if self._peered is not None:
                        self._peered.peers = found.peers
                except Interrupted:
                    return
                except ServiceError as error:
                    log.warning("the heartbeat failed: %s", error)
            c.stop.wait(BEAT if url else 0.05)


def test_set(settings: WorkerSettings, experiment: Any) -> Any:
    """Return the data set whose test samples are the global test set, None where this server has none.

    Raises ConfigError where the module of the operator's own function is not allowed.
    """
    from cutlayer.data import load
    from cutlayer.engines.prepare import load_dataset

    if settings.data == "none":
        return None
    if settings.data != "experiment":
        return load(settings.data)
    try:
        return load_dataset(experiment.data)
    except (DataError, ConfigError) as error:
        log.info("no global test set here: %s", error)
        return None
