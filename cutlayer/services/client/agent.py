"""The client agent: enrols, asks for tasks, does them.  It only dials out, and runs no code but what it was allowed."""

from __future__ import annotations

import logging
import platform
import re
import secrets
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from cutlayer import targets
from cutlayer.config import Experiment, parse
from cutlayer.errors import ConfigError, CutlayerError, NoSpace, StoreError
from cutlayer.faults import point
from cutlayer.services import logs, tracing
from cutlayer.services.api import Backend
from cutlayer.services.client.data import EXPERIMENT, own_data
from cutlayer.services.client.held import Held, HeldRuns
from cutlayer.services.client.member import Member
from cutlayer.services.client.place import Place
from cutlayer.services.client.plane import DataPlane
from cutlayer.services.client.scoring import score
from cutlayer.services.connection import Interrupted
from cutlayer.services.errors import Conflict, NotFound, ServiceError, Unauthorized
from cutlayer.services.http import Link, Tls
from cutlayer.services.protocol import ENDED, Capabilities, RunView, Task
from cutlayer.services.runs import ServedRun
from cutlayer.services.secrets import read_secret, write_secret
from cutlayer.services.settings import ClientSettings
from cutlayer.transport import Traffic
from cutlayer.version import __version__

log = logging.getLogger(__name__)

KEY = "key"
PATIENCE = 5.0
"""Seconds after which a client that reaches no server asks where the servers are."""


class Stopped(CutlayerError):
    """Nobody waits for the task any more."""


class Agent:
    """One client of a deployment."""

    def __init__(self, settings: ClientSettings, stop: threading.Event | None = None) -> None:
        settings.check()
        self.settings = settings
        self.stop = stop or threading.Event()
        own = (settings.data.partition(":")[0],) if ":" in settings.data else ()
        targets.restrict((*settings.allow, *own))
        if settings.data != EXPERIMENT and ":" not in settings.data:
            raise ConfigError(f"data must be 'experiment' or package.module:function, got {settings.data!r}")
        self.name = settings.name or re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).lstrip(".") or "client"
        self._tls = Tls(settings.ca, settings.tls_client_cert, settings.tls_client_key)
        self._held = HeldRuns()
        self._links: WeakSet[Link] = WeakSet()
        self.on_event: Callable[[str], None] = log.info

    def interrupt(self) -> None:
        """End all work and waiting, in whatever thread; the place in the run is kept."""
        self.stop.set()
        for link in list(self._links):
            link.interrupt()

    # --- joining ------------------------------------------------------------------------------------------------

    def join(self) -> Backend:
        """Enrol, or come back with the key of before, and return the backend as this client sees it.

        Raises ConfigError without a token or key, Unauthorized or Conflict where the backend refuses.
        """
        self.settings.folder.mkdir(parents=True, exist_ok=True)
        file = self.settings.folder / KEY
        known = read_secret(file, "the client's key") if file.exists() else None
        if known is None:
            token, key = self.settings.enrol_token(), f"cl_key_{secrets.token_urlsafe(32)}"
            write_secret(file, key)  # first, so that an answer that is lost loses nothing
        else:
            token = key = known
        capabilities = Capabilities(labels=dict(self.settings.labels), info=self._info())
        backend = Backend(self._link(self.settings.server, token, None))
        try:
            backend.enrol(self.name, capabilities, key)
        except (Unauthorized, Conflict):
            if known is not None:
                self._enrol_again(capabilities, key)
            else:
                file.unlink(missing_ok=True)
                raise
        finally:
            backend.link.close()
        return Backend(self._link(self.settings.server, key, None))

    def _enrol_again(self, capabilities: Capabilities, key: str) -> None:
        """A key that was written down before its enrolment was answered: enrol with it now."""
        backend = Backend(self._link(self.settings.server, self.settings.enrol_token(), None))
        try:
            backend.enrol(self.name, capabilities, key)
        finally:
            backend.link.close()

    def _info(self) -> dict[str, Any]:
        return {"cutlayer": __version__, "python": platform.python_version(), "device": self.settings.device}

    def _link(self, url: str | list[str], token: str, patience: float | None) -> Link:
        link = Link(
            url,
            token=token,
            tls=self._tls,
            timeout=90.0,
            patience=patience,
            stop=self.stop,
            rotate=self.settings.rotate,
            insecure=self.settings.insecure,
            on_wait=lambda reason, seconds: log.info("%s; again in %.1f s", reason, seconds),
        )
        self._links.add(link)
        return link

    # --- work ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Do tasks until told to stop; raises what enrolling raises."""
        backend = self.join()
        self.on_event(f"{self.name} is connected to {self.settings.server}")
        try:
            while not self.stop.is_set():
                try:
                    task = backend.next_task()
                    if task is None or task.run not in self._held:
                        self._held.release(lambda run: _has_ended(backend, run))
                    if task is not None:
                        self._work(backend, task)
                except Interrupted:
                    break
                except Unauthorized as error:
                    raise ServiceError(f"the backend does not know this client any more: {error}") from None
                except ServiceError as error:
                    log.warning("cannot ask for tasks: %s", error)
                    self.stop.wait(1.0)
        finally:
            backend.link.close()

    def _work(self, backend: Backend, task: Task) -> None:
        with logs.about(run=task.run, round=task.round), tracing.span(task.kind, run=task.run, round=task.round):
            beat = _Beat(backend, task, self.stop)
            beat.start()
            try:
                result = self._do(backend, task, beat)
                point("client.result.before_send")
                backend.result(task.id, result)
                point("client.result.after_send")
            except Interrupted:
                self._held.spoilt(task.run)
                raise
            except (Stopped, Conflict, NotFound) as error:
                log.info("task %s is over: %s", task.kind, error)
                self._held.spoilt(task.run)
                self._give_up(backend, task, str(error))
            except CutlayerError as error:
                log.warning("task %s failed: %s", task.kind, error)
                retryable = isinstance(error, StoreError | ServiceError)
                self._held.spoilt(task.run)
                if isinstance(error, NoSpace):
                    self.stop.wait(5.0)
                backend.error(task.id, str(error), retryable)
            except Exception as error:
                log.exception("task %s failed", task.kind)
                self._held.spoilt(task.run)
                backend.error(task.id, f"{type(error).__name__}: {error}"[:1000], False)
            finally:
                beat.done.set()

    def _give_up(self, backend: Backend, task: Task, reason: str) -> None:
        """Say that a task that is over is not done; nobody may be waiting for that."""
        try:
            backend.error(task.id, reason, True)
        except (Conflict, NotFound):
            return

    def _do(self, backend: Backend, task: Task, beat: _Beat) -> dict[str, Any]:
        payload = task.payload
        if task.kind == "prepare":
            view = backend.run(task.run)
            held = self._run(task.run, parse(view.experiment), int(payload["client"]), int(payload["clients"]))
            return held.data.report.model_dump(mode="json")
        member = self._member(backend, task)
        traffic = member.traffic if task.kind == "train" else Traffic()
        plane = DataPlane(
            backend, lambda urls, ticket: self._link(urls, ticket, PATIENCE), task, member.number, traffic, beat.check
        )
        try:
            if task.kind == "train":
                return member.train(task, plane, lambda batches, of: self._between(backend, beat, batches, of))
            if task.kind == "evaluate":
                return score(member, task, plane, traffic)
        finally:
            plane.close()
        raise ConfigError(f"this version of cutlayer knows no task of kind {task.kind!r}; update it")

    def _between(self, backend: Backend, beat: _Beat, batches: int, of: int) -> None:
        """After a batch: tell how far the task is, and score the model in between where others wait for that."""
        beat.batch(batches, of)
        if beat.evaluate.is_set():
            beat.evaluate.clear()
            try:
                task = backend.next_task(kinds=("evaluate",), wait=0.0)
            except ServiceError as error:
                log.warning("cannot ask for a score that others wait for: %s", error)
                return
            if task is not None:
                self._work(backend, task)

    def _run(self, run: str, experiment: Experiment, number: int, clients: int) -> Held:
        source = self.settings.data
        return self._held.of(run, number, clients, lambda: own_data(source, experiment, number, clients))

    def _member(self, backend: Backend, task: Task) -> Member:
        number = int(task.payload["client"])
        found = self._held.member(task.run, number)
        if found is not None:
            return found
        view: RunView = backend.run(task.run)
        experiment = parse(view.experiment)
        held = self._run(task.run, experiment, number, view.clients or experiment.clients.count)
        if self.settings.threads is not None and experiment.threads == "auto":
            experiment = experiment.model_copy(update={"threads": self.settings.threads})
        served = ServedRun(view, experiment, held.data.outline, backend, self.settings.device)
        held.member = Member(served, held.data, number, Place(self.settings.folder, task.run))
        return held.member


def _has_ended(backend: Backend, run: str) -> bool:
    """Say whether a run needs no client any more, or not this one."""
    try:
        return backend.run(run).state in ENDED
    except NotFound:
        return True


class _Beat(threading.Thread):
    """Tells the backend that a task is worked on, and hears whether anybody still waits for it."""

    def __init__(self, backend: Backend, task: Task, stop: threading.Event) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self.done, self._cancelled, self.evaluate = threading.Event(), threading.Event(), threading.Event()
        self._backend, self._task, self._stop_all = backend, task, stop
        self._batches = 0
        self._of: int | None = None

    def batch(self, batches: int, of: int) -> None:
        """Note the progress.  Raises Stopped or Interrupted where the work is to end."""
        self._batches, self._of = batches, of
        self.check()

    def check(self) -> None:
        """Raise Stopped or Interrupted where the work is to end."""
        if self._stop_all.is_set():
            raise Interrupted("interrupted")
        if self._cancelled.is_set():
            raise Stopped("the task was cancelled")

    def run(self) -> None:
        pause = min(self._task.lease_seconds / 3, 2.0)
        while not self.done.wait(pause):
            try:
                found = self._backend.heartbeat(self._task.id, self._batches, self._of)
            except (Conflict, NotFound):
                self._cancelled.set()
                return
            except ServiceError:
                continue
            if found.cancelled:
                self._cancelled.set()
                return
            if found.evaluate:
                self.evaluate.set()


def run(settings: ClientSettings) -> None:
    """Run a client agent until SIGINT or SIGTERM; a second signal ends it at once."""
    logs.configure(settings.log_level, settings.log_format)
    if settings.trace is not None:
        tracing.start("client", settings.trace)
    agent = Agent(settings)
    before: dict[int, Any] = {}

    def leave(number: int, frame: object) -> None:
        log.info("leaving; the place in the run is kept")
        agent.interrupt()
        for each, handler in before.items():
            signal.signal(each, handler)

    for wanted in (signal.SIGINT, signal.SIGTERM):
        before[wanted] = signal.signal(wanted, leave)
    try:
        agent.run()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
