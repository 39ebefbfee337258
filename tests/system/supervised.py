"""A deployment whose processes die, and are started again the same way, at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import psutil
import torch

from cutlayer.config import Experiment
from cutlayer.roles.schedule import Schedule
from cutlayer.services.local import up as starting
from cutlayer.services.local.deployment import Deployment, Process
from cutlayer.services.local.down import down
from cutlayer.store import ObjectStore
from cutlayer.store.states import States
from system.deployed import Deployed, in_process
from system.nursery import Nursery
from system.proxy import Proxy

LOOK_EVERY = 0.02


class Supervised(Deployed):
    """Services of which whatever died is started again.

    ``faults`` are the points at which a process is to die, by its name: one after the other, each in a new life.
    """

    def __init__(self, there: Deployment, lives: Lives) -> None:
        super().__init__(there)
        self.lives = lives
        self.faults: dict[str, list[str]] = {}
        self.died: list[str] = []
        """The points at which processes died, in that order."""
        self.deaths = 0
        self.place = there.folder / "store"
        """Where the services' files are."""
        self.suspended: set[str] = set()
        """Processes that are not started again for now."""
        self._armed: dict[str, tuple[str, Path]] = {}
        self._numbers = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._thread.start()

    def arm(self, faults: Mapping[str, Iterable[str]]) -> None:
        """Have processes die at points; they are killed once before that, to be started with the first."""
        self.faults = {name: list(points) for name, points in faults.items()}
        self.died = []
        for name in list(self.faults):
            self.kill(name)

    def kill(self, name: str) -> bool:
        """Kill a process, if it lives."""
        found = self.lives.of(name).found()
        if found is None:
            return False
        with suppress(psutil.NoSuchProcess):
            found.send_signal(signal.SIGKILL)
            self.deaths += 1
            return True
        return False

    def names(self) -> list[str]:
        return self.lives.names()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_EVERY):
            for name in self.lives.names():
                if name not in self.suspended and self.lives.of(name).found() is None:
                    self._again(name)

    def _again(self, name: str) -> None:
        armed = self._armed.pop(name, None)
        if armed is not None and armed[1].exists():
            self.died.append(armed[0])
            self.deaths += 1
        elif armed is not None:
            self.faults[name].insert(0, armed[0])  # it died before it came by
        environment: dict[str, str] = {}
        if self.faults.get(name):
            point = self.faults[name].pop(0)
            self._numbers += 1
            once = self.there.folder / f"fault-{self._numbers}"
            self._armed[name] = point, once
            environment = {"CUTLAYER_FAULT": point, "CUTLAYER_FAULT_ONCE": str(once)}
        self.lives.again(name, environment)

    def unarm(self) -> list[str]:
        """Return the points of :meth:`arm` that nobody has come by; nobody dies there any more."""
        left = [point for points in self.faults.values() for point in points]
        left += [point for point, once in self._armed.values() if not once.exists()]
        died = [point for point, once in self._armed.values() if once.exists()]
        self.died += died
        armed, self._armed, self.faults = list(self._armed), {}, {}
        for name in armed:
            self.kill(name)
        return left

    def settle(self, seconds: float = 60.0) -> None:
        """Wait until everything lives."""
        until = time.monotonic() + seconds
        while any(self.lives.of(name).found() is None for name in self.names()):
            assert time.monotonic() < until, "a process does not come back"
            time.sleep(LOOK_EVERY)

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        state = self.there.read()
        for name in self.lives.names():
            state = state.having(self.lives.of(name))
        self.there.write(state)

    # --- what came out ------------------------------------------------------------------------------------------

    def store(self) -> ObjectStore:
        return ObjectStore(self.place)

    def counted(self, run: str, rounds: int) -> list[list[list[int]]]:
        """Return the batches that count in every round, as the split server's files say."""
        states = States(self.store(), run)
        return [states.round(number)["members"] for number in range(1, rounds + 1)]

    def check(self, run: str, experiment: Experiment, folder: Path, expected: Mapping[str, torch.Tensor]) -> None:
        """The weights are those of one process, and exactly the batches of every round count."""
        if experiment.algorithm["name"] == "splitfed_async":
            self.check_order(run, experiment, folder)
            return
        found = self.model(run, folder)
        settings = _settings(experiment)
        personal = set(settings.parts) - {"backbone", *settings.recipe.averaged}
        if settings.recipe.schedule == "relay" or settings.recipe.server == "none" or not personal:
            assert found.keys() == expected.keys()
        assert found.keys() <= expected.keys()  # parts that every client has its own of stay with the clients
        for name, tensor in found.items():
            assert torch.equal(expected[name], tensor), f"{name}\n{self.said(40)}"
        if settings.recipe.server == "none":
            return
        for number, counted in enumerate(self.counted(run, experiment.rounds), 1):
            plan = self.backend.plan(run, number)
            schedule = Schedule(settings, number, {p.client: p.samples for p in plan.participants})
            assert sorted(counted) == sorted(list(key) for key in schedule.order)


class Lives:
    """The processes of a deployment, each started any number of times."""

    def __init__(self, nursery: Nursery, network: Mapping[str, Proxy]) -> None:
        self._nursery, self._network = nursery, network
        self._words: dict[str, list[str]] = {}
        self._environments: dict[str, dict[str, str]] = {}
        self._logs: dict[str, Path] = {}
        self._processes: dict[str, Process] = {}

    def names(self) -> list[str]:
        return list(self._processes)

    def of(self, name: str) -> Process:
        return self._processes[name]

    def first(self, words: list[str], **keys: Any) -> Any:
        """Start a process as ``subprocess.Popen`` does."""
        words = words[words.index("cutlayer.cli") + 1 :]
        name = Path(keys["stdout"].name).stem
        if name.startswith("client") and "backend" in self._network:
            at = words.index("--server") + 1
            self._network["backend"].targets, words[at] = [words[at]], self._network["backend"].url
        self._words[name], self._environments[name], self._logs[name] = words, keys["env"], Path(keys["stdout"].name)
        return SimpleNamespace(pid=self._start(name, {}).pid, wait=lambda: None)

    def again(self, name: str, environment: Mapping[str, str]) -> None:
        """Start a process as the last time, and on the same port."""
        self._start(name, environment)

    def settle(self, there: Deployment) -> None:
        """Remember where processes listen."""
        for kind in self._network.keys() & {"split", "fed"}:
            self._network[kind].targets = [str(p.url) for p in there.read().processes if p.kind == kind]
        for process in there.read().processes:
            words = self._words[process.name]
            if "--port" in words:
                words[words.index("--port") + 1] = str(process.port)

    def _start(self, name: str, environment: Mapping[str, str]) -> Process:
        kind: Any = name.partition("-")[0]
        pid = self._nursery.start(self._words[name], self._environments[name] | dict(environment), self._logs[name])
        try:
            born = psutil.Process(pid).create_time()
        except psutil.NoSuchProcess:
            born = time.time()
        self._processes[name] = Process(name, kind, pid, born)
        return self._processes[name]


@contextmanager
def supervised(
    folder: Path, nursery: Nursery, *, split: int = 2, clients: int = 3, network: Mapping[str, Proxy] | None = None,
    **environment: str,
) -> Iterator[Supervised]:  # fmt: skip
    """Start services in ``folder``, keep them alive, and end them; ``network`` is between them and their clients."""
    there, network = Deployment(folder), network or {}
    lives = Lives(nursery, network)
    environment |= {f"CUTLAYER_{kind.upper()}_URLS": network[kind].url for kind in network.keys() & {"split", "fed"}}
    popen = SimpleNamespace(Popen=lives.first, DEVNULL=None)
    try:
        with mock.patch.object(starting, "subprocess", popen), mock.patch.dict(os.environ, environment):
            starting.up(there, split=split, clients=clients, dashboard=False)
        lives.settle(there)
        found = Supervised(there, lives)
        try:
            yield found
        finally:
            found.stop()
    finally:
        down(there)


class Undisturbed:
    """The weights of experiments in one process, each computed once."""

    def __init__(self) -> None:
        self._known: dict[str, Mapping[str, torch.Tensor]] = {}

    def __call__(self, experiment: Experiment) -> Mapping[str, torch.Tensor]:
        key = repr(experiment.as_dict())
        if key not in self._known:
            self._known[key] = in_process(experiment)[0]
        return self._known[key]


def _settings(experiment: Experiment) -> Any:
    from cutlayer.engines.prepare import prepare

    return prepare(experiment).settings
