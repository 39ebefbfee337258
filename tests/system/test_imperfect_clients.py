"""Clients that are few, late, dead, interrupted, unlike each other, or busy with something else: real processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import psutil
import pytest
import torch

from cutlayer import wire
from cutlayer.config import Experiment
from cutlayer.services import tickets
from cutlayer.services.errors import Conflict
from cutlayer.services.http import Link
from cutlayer.services.local import up as starting
from cutlayer.services.local.deployment import Deployment
from cutlayer.services.local.down import down
from cutlayer.services.secrets import read_secret
from cutlayer.services.tickets import Ticket
from cutlayer.wire import Message
from system.deployed import Deployed
from system.nursery import Nursery
from system.supervised import Lives, Undisturbed

LOST_AFTER = 6


class Clinic(Deployed):
    """Services without clients, and clients that come and go; each test has its own, by a label."""

    def __init__(self, there: Deployment, nursery: Nursery, folder: Path) -> None:
        super().__init__(there)
        self._nursery, self._folder = nursery, folder
        self.people: dict[str, psutil.Process] = {}

    def come(self, *names: str, data: str = "experiment", fault: str | None = None, **environment: str) -> None:
        """Start clients, or start them again; the first word of a name is its label."""
        backend = self.there.read().of("backend")
        assert backend is not None
        environment = {**os.environ, **environment} | ({"CUTLAYER_FAULT": fault} if fault else {})
        for name in names:
            words = ["client", "--server", str(backend.url), "--token-file", str(self.there.token("enrol").absolute())]
            words += ["--name", name, "--folder", str(self._folder / name), "--labels", f"of={name.partition('-')[0]}"]
            words += ["--data", data, "--threads", "1"]
            pid = self._nursery.start(words, environment, self.there.log(name))
            self.people[name] = psutil.Process(pid)

    def go(self, name: str, number: signal.Signals = signal.SIGINT) -> None:
        """End a client, and wait until it has."""
        self.people[name].send_signal(number)
        gone(self.people[name])

    def log(self, name: str) -> str:
        return self.there.log(name).read_text(errors="replace")

    def kinds(self, run: str) -> list[str]:
        found = []
        for event in self.backend.events(run):
            found.append(event.kind)
            if event.kind == "run.state" and event.data["state"] in ("done", "failed", "cancelled"):
                break
        return found

    def until(self, what: Callable[[], object], seconds: float = 90.0) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, self.said()
            time.sleep(0.05)

    def leave(self) -> None:
        for process in self.people.values():
            if process.is_running():
                process.kill()


def gone(process: psutil.Process) -> None:
    end = time.monotonic() + 60
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.02)


def ended(clinic: Clinic, run: str, round_number: int) -> bool:
    """Whether the split server has marked the end of a client of the round."""
    tasks = [t for t in clinic.backend.tasks(run) if t.kind == "end" and t.round == round_number]
    return bool(tasks) and all(t.state == "done" for t in tasks)


def of(label: str, count: int = 3, **keys: Any) -> dict[str, Any]:
    return {"count": count, "require": {"of": label}, **keys}


@contextmanager
def born_of(nursery: Nursery, **environment: str) -> Iterator[None]:
    """Let ``up`` start processes quickly."""
    popen = SimpleNamespace(Popen=Lives(nursery, {}).first, DEVNULL=None)
    with mock.patch.object(starting, "subprocess", popen), mock.patch.dict(os.environ, environment):
        yield


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> Iterator[Clinic]:
    folder = tmp_path_factory.mktemp("clinic")
    there = Deployment(folder / "services")
    environment = {"CUTLAYER_LOST_AFTER": str(LOST_AFTER), "CUTLAYER_LEASE_SECONDS": str(LOST_AFTER)}
    try:
        with born_of(nursery, **environment):
            starting.up(there, split=1, clients=0, dashboard=False)
        found = Clinic(there, nursery, folder / "people")
        try:
            yield found
        finally:
            found.leave()
    finally:
        down(there)


def the_same(clinic: Clinic, run: str, experiment: Experiment, undisturbed: Undisturbed, folder: Path) -> None:
    """What there is one of has the weights of one process."""
    view = clinic.ended(run)
    assert view.state == "done", f"{view.reason}\n{clinic.said()}"
    found, expected = clinic.model(run, folder), undisturbed(experiment)
    assert found.keys() <= expected.keys()
    assert all(torch.equal(expected[name], tensor) for name, tensor in found.items())


# --- all is well -----------------------------------------------------------------------------------------------------


def test_the_other_algorithms_and_a_fraction_of_the_clients(
    clinic: Clinic, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    clinic.come("all-0", "all-1", "all-2")
    for algorithm, fraction, shared in [
        ("psl", 1.0, 0), ("sglr", 0.67, 2), ("splitfed_v3", 0.67, 2), ("local", 1.0, 0), ("vanilla", 0.67, 4),
    ]:  # fmt: skip
        run, experiment = clinic.submit(algorithm=algorithm, clients=of("all", fraction=fraction))
        the_same(clinic, run, experiment, undisturbed, tmp_path)
        assert len(clinic.model(run, tmp_path)) >= shared
        assert all(m["clients"] == (3 if fraction == 1 else 2) for m in clinic.backend.metrics(run))


def test_two_runs_at_once_on_the_same_clients(clinic: Clinic, undisturbed: Undisturbed, tmp_path: Path) -> None:
    clinic.come("two-0", "two-1")
    runs = [clinic.submit(algorithm=a, clients=of("two", 2), seed=s) for a, s in [("file_sync", 1), ("vanilla", 2)]]
    for run, experiment in runs:
        the_same(clinic, run, experiment, undisturbed, tmp_path)


# --- the operator ----------------------------------------------------------------------------------------------------


def test_pause_resume_and_cancel(clinic: Clinic, undisturbed: Undisturbed, tmp_path: Path) -> None:
    clinic.come("slow-0", "slow-1")
    run, experiment = clinic.submit(algorithm="splitfed_v2", clients=of("slow", 2), rounds=6)
    clinic.until(lambda: clinic.backend.run(run).round >= 2)
    clinic.backend.pause(run)
    clinic.until(lambda: not [t for t in clinic.backend.tasks(run) if t.state == "leased"])
    view = clinic.backend.run(run)
    assert view.paused
    assert view.state == "running"
    other, _ = clinic.submit(algorithm="splitfed_v2", clients=of("slow", 2), rounds=200)
    clinic.until(lambda: clinic.backend.run(other).round >= 2)  # clients of a paused run work for others
    clinic.backend.cancel(other)
    assert clinic.backend.run(run).round == view.round
    clinic.backend.resume(run)
    the_same(clinic, run, experiment, undisturbed, tmp_path)
    assert clinic.ended(other).state == "cancelled"
    with pytest.raises(Conflict):
        clinic.backend.resume(other)


def test_a_client_that_is_interrupted_keeps_its_place(clinic: Clinic, undisturbed: Undisturbed, tmp_path: Path) -> None:
    clinic.come("sigint-0", "sigint-1")
    run, experiment = clinic.submit(algorithm="ushaped", clients=of("sigint", 2), rounds=3, batch_size=16)
    for number in (1, 2):
        clinic.until(lambda n=number: clinic.backend.run(run).round >= n)  # type: ignore[misc]
        clinic.go("sigint-1")
        assert "leaving; the place in the run is kept" in clinic.log("sigint-1")
        clinic.come("sigint-1")
    the_same(clinic, run, experiment, undisturbed, tmp_path)
    assert "Traceback" not in clinic.log("sigint-1")


# --- clients that die ------------------------------------------------------------------------------------------------


def without_the_dead(clinic: Clinic, label: str, fault: str, **keys: Any) -> str:
    """A client dies at a point for good: the run ends without it, and says so; returns the run."""
    clinic.come(f"{label}-0", f"{label}-2")
    clinic.come(f"{label}-1", fault=fault)
    run, experiment = clinic.submit(clients=of(label, deadline=90, quorum=0.6), **keys)
    view = clinic.ended(run)
    assert view.state == "done", f"{view.reason}\n{clinic.said()}"
    gone(clinic.people[f"{label}-1"])
    dropped = [e for e in _events(clinic, run) if e.kind == "client.dropped" and e.data["kind"] == "train"]
    assert {e.data["number"] for e in dropped} == {1}
    assert dropped[0].data["reason"] == f"{label}-1 is away"
    lines = clinic.backend.metrics(run)
    assert [line["clients"] for line in lines] == [2] * experiment.rounds
    assert all(set(line["client_samples"]) == {"0", "2"} for line in lines), lines
    return run


def _events(clinic: Clinic, run: str) -> list[Any]:
    found = []
    for event in clinic.backend.events(run):
        found.append(event)
        if event.kind == "run.state" and event.data["state"] in ("done", "failed", "cancelled"):
            return found
    return found


@pytest.mark.parametrize("recipe", ["vanilla", "file_sync"])
def test_a_round_goes_on_without_a_client_that_died(recipe: str, clinic: Clinic, tmp_path: Path) -> None:
    """Also where others wait for it: a relay, a window."""
    run = without_the_dead(clinic, f"dead{recipe[0]}", "client.batch.after_reply@3", algorithm=recipe, rounds=1)
    assert all(bool(t.isfinite().all()) for t in clinic.model(run, tmp_path).values())


def test_an_average_does_not_contain_a_client_that_was_dropped(clinic: Clinic, tmp_path: Path) -> None:
    """One that had sent its update already, and one that had not begun, make no difference."""
    done = without_the_dead(clinic, "after", "client.update.after_send", algorithm="splitfed_v1", rounds=1)
    none = without_the_dead(clinic, "before", "client.task.before_weights", algorithm="splitfed_v1", rounds=1)
    one, other = clinic.model(done, tmp_path), clinic.model(none, tmp_path)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], tensor) for name, tensor in other.items())


def test_what_a_dropped_client_sends_later_is_refused(clinic: Clinic) -> None:
    run, _ = clinic.submit(algorithm="splitfed_v2", clients=of("late", deadline=LOST_AFTER, quorum=0.6), rounds=2)
    clinic.come("late-0", "late-2")
    clinic.come("late-1", fault="client.batch.after_reply@2")
    clinic.until(lambda: clinic.backend.run(run).round >= 2)
    split = clinic.there.read().of("split-1")
    assert split is not None
    secret = read_secret(clinic.there.folder / "secret", "secret")
    h, y = torch.zeros(64, 24), torch.zeros(64, dtype=torch.int64)
    for round_number in (1, 2):
        ticket = tickets.issue(secret, Ticket(run, round_number, 1, "x", "train", "x"), 60)
        late = Message("train", {"h0": h, "y": y}, {"key": [1, round_number, 0, 2], "samples": 64})
        clinic.until(lambda n=round_number: ended(clinic, run, n))
        with pytest.raises(Conflict):
            Link(str(split.url), token=ticket).binary(
                "POST", f"/v1/runs/{run}/rounds/{round_number}/train", [wire.encode(late)]
            )
    assert clinic.ended(run).state == "done"


# --- clients that come later -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["file_sync", "vanilla", "psl", "splitfed_v1"])
def test_a_client_that_comes_later_joins(recipe: str, clinic: Clinic, tmp_path: Path) -> None:
    """Where the others' batches are summed, handed on, joined, or averaged: it is part of the next round."""
    label = f"join{recipe[0]}"
    clinic.come(f"{label}-0", f"{label}-1")
    run, _ = clinic.submit(algorithm=recipe, clients=of(label, 3, minimum=2, join=True), rounds=20)
    clinic.until(lambda: clinic.backend.run(run).round >= 1)
    clinic.people[f"{label}-1"].suspend()  # so that the run is still there
    clinic.come(f"{label}-2")
    clinic.until(lambda: len([m for m in clinic.backend.run(run).members if m.samples]) == 3)
    began = clinic.backend.run(run).round
    clinic.people[f"{label}-1"].resume()
    view = clinic.ended(run)
    assert view.state == "done", f"{view.reason}\n{clinic.said()}"
    lines = clinic.backend.metrics(run)
    assert [line["clients"] for line in lines] == [2] * began + [3] * (20 - began)
    assert sum(m.samples or 0 for m in view.members) == lines[-1]["samples"]
    (seated,) = [e for e in _events(clinic, run) if e.kind == "client.seated"]
    assert (seated.round, seated.data["name"]) == (began, f"{label}-2")
    assert all(bool(t.isfinite().all()) for t in clinic.model(run, tmp_path).values())


# --- data of one's own -----------------------------------------------------------------------------------------------


def test_clients_with_data_of_their_own(clinic: Clinic) -> None:
    """A run begins with as few as it may; who comes late takes part in the next; who does not fit is named."""
    for name in ("one", "two"):
        clinic.come(f"own-{name}", data=f"hospitals:{name}")
    keys = {"clients": of("own", 3, minimum=2), "rounds": 1, "batch_size": 16, "algorithm": "file_sync"}
    first, _ = clinic.submit(**keys)
    assert [m.name for m in clinic.ended(first).members] == ["own-one", "own-two"]
    waiting, _ = clinic.submit(**{**keys, "clients": of("own", 3)})
    clinic.come("own-three", data="hospitals:three")
    view = clinic.ended(waiting)
    assert view.state == "done", f"{view.reason}\n{clinic.said()}"
    assert [(m.name, m.samples, m.test_samples) for m in view.members] == [
        ("own-one", 90, 30), ("own-three", 90, 30), ("own-two", 90, 30),
    ]  # fmt: skip
    clinic.go("own-two")
    clinic.come("own-two", data="hospitals:odd")
    clinic.until(lambda: clinic.log("own-two").count("is connected") == 2)
    view = clinic.ended(clinic.submit(**{**keys, "clients": of("own", 3)})[0])
    assert view.state == "failed"
    assert view.reason == "all clients must have the same classes: own-one has 3, own-two has 5"


# --- the services ----------------------------------------------------------------------------------------------------


def test_down_and_up_in_the_middle_of_a_run(nursery: Nursery, undisturbed: Undisturbed, tmp_path: Path) -> None:
    there = Deployment(tmp_path / "services")
    with born_of(nursery):
        try:
            starting.up(there, split=2, clients=2, dashboard=False)
            services = Deployed(there)
            run, experiment = services.submit(algorithm="ushaped", clients=2, rounds=4)
            while services.backend.run(run).round < 2:
                time.sleep(0.02)
            assert len(down(there)) == 6
            starting.up(there, split=2, clients=2, dashboard=False)
            services = Deployed(there)
            assert services.ended(run).state == "done"
            found, expected = services.model(run, tmp_path), undisturbed(experiment)
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
        finally:
            down(there)
