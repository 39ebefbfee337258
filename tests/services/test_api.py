"""The typed methods, against a real backend on SQLite."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cutlayer import config
from cutlayer.services.api import Backend
from cutlayer.services.errors import Conflict, Forbidden, NotFound, ServiceError, Unauthorized, Unprocessable
from cutlayer.services.http import Link
from cutlayer.services.protocol import Capabilities

SHAPE = {"samples": 10, "test_samples": 2, "classes": 3, "inputs": [{"shape": [4], "dtype": "float32"}]}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("backend")
    words = ["--folder", folder, "--port", "0", "--announce", folder / "announce"]
    for role, prefix in (("operator", "cl_op_"), ("service", "cl_svc_"), ("enrol", "cl_enrol_")):
        (folder / role).write_text(prefix + secrets.token_urlsafe(32))
        words += [f"--{role}-token-file", folder / role]
    process = subprocess.Popen([sys.executable, "-m", "cutlayer.cli", "serve", "backend", *map(str, words)])
    until = time.monotonic() + 120
    while not (folder / "announce").exists():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    said = json.loads((folder / "announce").read_text())
    yield f"{said['url']}#{folder}"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def backend_as(url: str, role: str) -> Backend:
    address, _, folder = url.partition("#")
    return Backend(Link(address, token=(Path(folder) / role).read_text()))


@pytest.fixture
def operator(url: str) -> Backend:
    return backend_as(url, "operator")


@pytest.fixture
def service(url: str) -> Backend:
    return backend_as(url, "service")


def client_of(url: str, key: str | None) -> Backend:
    return Backend(Link(url.partition("#")[0], token=key))


def experiment(**keys: Any) -> dict[str, Any]:
    return config.load(None, algorithm="fedavg", rounds=2, clients=1, **keys).as_dict()


def test_a_run_from_end_to_end(url: str, operator: Backend, service: Backend, tmp_path: Path) -> None:
    operator.ready()
    enrolled = backend_as(url, "enrol").enrol("a", Capabilities(labels={"site": "north"}))
    client = client_of(url, enrolled.key)
    with pytest.raises(NotFound):
        operator.run("nowhere")
    run = operator.submit({**experiment(), "clients": {"count": 1, "require": {"site": "north"}}}, "mine")
    assert run.startswith("mine-")
    assert [r.id for r in operator.runs(limit=1).runs] == [run]

    prepare = client.next_task(wait=10)
    assert prepare is not None
    assert (prepare.kind, prepare.run) == ("prepare", run)
    assert not client.heartbeat(prepare.id, 1, 2).cancelled
    client.result(prepare.id, SHAPE)
    assert operator.run(run).example is not None

    def work(target: Any, result: dict[str, Any]) -> str:
        task = service.next_task(target, "replica-1", wait=10)
        assert task is not None
        service.result(task.id, result, "replica-1")
        return task.kind

    trained = {"samples": 10, "batches": 1, "loss_sum": 5.0, "bytes_up": 7, "bytes_down": 8}
    assert work("fed", {}) == "setup"
    for number in (1, 2):
        train = client.next_task(wait=10)
        assert train is not None
        assert (train.kind, train.round) == ("train", number)
        assert train.ticket
        client.result(train.id, trained)
        client.result(train.id, trained)
        assert operator.plan(run, number).participants[0].samples == 10
        assert work("fed", {}) == "aggregate"
        evaluate = client.next_task(wait=10)
        assert evaluate is not None
        client.result(evaluate.id, {"count": 2, "correct": 1, "loss": 1.0})
        assert work("fed", {"count": 4, "correct": 3, "loss": 1.0}) == "score"
    (tmp_path / "model").write_bytes(b"weights" * 1000)
    service.upload(run, "model.safetensors", tmp_path / "model")
    assert work("fed", {"artifacts": {}}) == "conclude"

    found = operator.run(run)
    assert (found.state, found.round) == ("done", 2)
    assert [m["round"] for m in operator.metrics(run)] == [1, 2]
    assert [m["round"] for m in operator.metrics(run, after=1)] == [2]
    assert [r.state for r in operator.rounds(run)] == ["done", "done"]
    assert {t.state for t in operator.tasks(run)} == {"done"}
    (artifact,) = [a for a in operator.artifacts(run) if a.name == "model.safetensors"]
    assert operator.download(run, artifact.name, tmp_path / "copy") == artifact.bytes == 7000
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "model").read_bytes()

    seen = []
    for event in operator.events(run, after=0):
        seen.append(event)
        if event.data.get("state") == "done" and event.kind == "run.state":
            break
    assert [e.data["round"] for e in seen if e.kind == "round"] == [1, 2]
    middle = seen[len(seen) // 2]
    assert next(operator.events(run, after=middle.id)) == seen[len(seen) // 2 + 1]
    assert client.run(run).number == 0


def test_steering(operator: Backend) -> None:
    run = operator.submit(experiment(name="still"))
    operator.pause(run)
    assert operator.run(run).paused
    operator.resume(run)
    assert not operator.run(run).paused
    operator.cancel(run)
    assert operator.run(run).state == "cancelled"
    assert run in {r.id for r in operator.runs("cancelled").runs}
    with pytest.raises(Conflict):
        operator.resume(run)


def test_the_same_submission_is_the_same_run(operator: Backend) -> None:
    from uuid import uuid4

    once = uuid4()
    assert operator.submit(experiment(), submission=once) == operator.submit(experiment(), submission=once)
    with pytest.raises(Unprocessable, match="rounds"):
        operator.submit({"rounds": 0})


def test_tokens_and_audit(url: str, operator: Backend) -> None:
    made = operator.make_token("viewer", "wall", seconds=3600)
    assert made.id in {t.id for t in operator.tokens()}
    viewer = client_of(url, made.token)
    assert viewer.runs().runs is not None
    with pytest.raises(Forbidden):
        viewer.submit(experiment())
    operator.delete_token(made.id)
    with pytest.raises(Unauthorized):
        viewer.runs()
    assert {"token.make", "token.revoke"} <= {e.data["act"] for e in operator.audit(limit=500)}


def test_clients(url: str, operator: Backend) -> None:
    enrolled = backend_as(url, "enrol").enrol("b")
    client = client_of(url, enrolled.key)
    assert client.enrol("b", Capabilities(labels={"site": "south"}), enrolled.key).client_id == enrolled.client_id
    (found,) = [c for c in operator.clients() if c.name == "b"]
    assert found.capabilities.labels == {"site": "south"}
    with pytest.raises(Conflict):
        backend_as(url, "enrol").enrol("b")
    assert client.next_task(wait=0) is None
    operator.revoke(enrolled.client_id)
    with pytest.raises(Unauthorized):
        client.next_task(wait=0)


def test_services(url: str, operator: Backend, service: Backend) -> None:
    assert service.service_heartbeat("split", "split-1", "http://127.0.0.1:1", {"queue": 3}).peers == 1
    (found,) = operator.services()
    assert (found.kind, found.id, found.live, found.stats["queue"]) == ("split", "split-1", True, 3)
    client = client_of(url, backend_as(url, "enrol").enrol("c").key)
    assert client.endpoints().split == ("http://127.0.0.1:1",)


def test_errors_of_tasks(url: str, operator: Backend) -> None:
    client = client_of(url, backend_as(url, "enrol").enrol("d", Capabilities(labels={"only": "d"})).key)
    run = operator.submit({**experiment(), "clients": {"count": 1, "require": {"only": "d"}}})
    task = client.next_task(wait=10)
    assert task is not None
    client.error(task.id, "the disk is full " * 1000, retryable=False)
    found = operator.run(run)
    assert found.state == "failed" or found.paused
    assert "the disk is full" in str(found.reason)


def test_answers_of_another_version() -> None:
    class Odd:
        def json(self, *_: Any, **__: Any) -> Any:
            return {"id": 5}

    odd = Backend(Odd())  # type: ignore[arg-type]
    with pytest.raises(ServiceError, match=r"expected a RunView from the backend, and its id is wrong .*same version"):
        odd.run("x")
    with pytest.raises(ServiceError, match="expected a list from the backend, and a dict came"):
        odd.clients()
