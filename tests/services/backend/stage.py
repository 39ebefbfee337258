"""A backend to play on: its requests, a clock that can be moved, and players that do the tasks without any torch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from cutlayer.services.backend.app import create_app
from cutlayer.services.protocol import PREFIXES
from cutlayer.services.settings import BackendSettings

OPERATOR = PREFIXES["operator"] + "o" * 43
SERVICE = PREFIXES["service"] + "s" * 43
ENROL = PREFIXES["enrol"] + "e" * 43
SECRET = "a secret of the tests that is long enough"

Result = dict[str, Any]


class Clock:
    """A time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Stage:
    """The backend on a database.  With ``restless``, the application is made anew before every request."""

    def __init__(
        self, url: str, folder: Path, *, clock: Callable[[], float] | None = None, restless: bool = False, **keys: Any
    ) -> None:
        self.clock = clock or Clock()
        self.restless = restless
        self.settings = BackendSettings(
            database=url,
            folder=folder,
            secret=SECRET,
            operator_token=OPERATOR,
            service_token=SERVICE,
            enrol_token=ENROL,
            rate=0,
            **keys,
        )
        self.requests = 0
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Stage:
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _open(self) -> None:
        self.app: FastAPI = create_app(self.settings, self.clock)
        await self._stack.enter_async_context(self.app.router.lifespan_context(self.app))
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        self.http = await self._stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://backend")
        )

    async def restart(self) -> None:
        """End the application, and make another one on the same database."""
        await self._stack.aclose()
        await self._open()

    def later(self, seconds: float) -> None:
        """Let time pass."""
        assert isinstance(self.clock, Clock)
        self.clock.now += seconds

    async def tick(self) -> None:
        """Have the timer do what is due now."""
        await self.app.state.backend.timer.sweep()

    async def call(self, method: str, path: str, json: Any = None, *, token: str = OPERATOR, **keys: Any) -> Any:
        """Make a request that must be granted; return its JSON (None for 204)."""
        answer = await self.raw(method, path, json, token=token, **keys)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return None if answer.status_code == 204 else answer.json()

    async def raw(
        self, method: str, path: str, json: Any = None, *, token: str | None = OPERATOR, **keys: Any
    ) -> httpx.Response:
        """Make a request; return the answer, whatever it is."""
        if self.restless:
            await self.restart()
        self.requests += 1
        headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **keys.pop("headers", {})}
        if json is not None:
            keys["json"] = json
        answer = await self.http.request(method, f"/v1{path}", headers=headers, **keys)
        assert answer.status_code < 500 or answer.status_code == 503, f"{method} {path}: {answer.text}"
        return answer

    async def run(self, run: str) -> dict[str, Any]:
        """Look at a run."""
        return await self.call("GET", f"/runs/{run}")

    async def events(self, run: str | None = None, after: int = 0) -> list[dict[str, Any]]:
        """Read the events that are there."""
        path = "/events" if run is None else f"/runs/{run}/events"
        answer = await self.raw("GET", f"{path}?follow=false&after={after}")
        return sse(answer.text)


def sse(text: str) -> list[dict[str, Any]]:
    """Return the events in a stream."""
    return [
        json.loads(line.removeprefix("data: "))
        for block in text.split("\n\n")
        for line in block.split("\n")
        if line.startswith("data: ")
    ]


# --- players ------------------------------------------------------------------------------------------------------

SAMPLES = (30, 20, 50, 10, 40)


def prepared(task: dict[str, Any]) -> Result:
    number = task["payload"]["client"]
    return {
        "samples": SAMPLES[number % 5],
        "test_samples": 10,
        "classes": 10,
        "class_names": [str(i) for i in range(10)],
        "inputs": [{"shape": [64], "dtype": "float32"}],
    }


def trained(task: dict[str, Any]) -> Result:
    samples = SAMPLES[task["payload"]["client"] % 5]
    return {
        "samples": samples,
        "batches": 2,
        "loss_sum": samples * (1.0 + task["payload"]["client"]) / task["round"],
        "bytes_up": 100,
        "bytes_down": 50,
        "bytes": {"activations": 100, "cut_gradients": 50},
        "seconds": 2.0,
        "seconds_by": {"server": 0.5, "federated": 0.25},
    }


def evaluated(task: dict[str, Any]) -> Result:
    return {"count": 10, "correct": 5 + task["payload"]["client"] % 5, "loss": 10.0}


def scored(task: dict[str, Any]) -> Result:
    return {"available": True, "count": 100, "correct": 90, "loss": 50.0, "confusion": [[45, 5], [5, 45]]}


RESULTS: dict[str, Callable[[dict[str, Any]], Result]] = {
    "prepare": prepared,
    "train": trained,
    "evaluate": evaluated,
    "score": scored,
    "conclude": lambda task: {"artifacts": {"model.safetensors": {"bytes": 8}}, "versions": {"cutlayer": "0"}},
}


@dataclass
class Player:
    """Whoever works: asks for a task, does it, reports.  ``acts`` replaces what it does with a kind of task."""

    stage: Stage
    name: str
    token: str
    target: str | None = None
    acts: dict[str, Callable[[dict[str, Any]], Result | None]] = field(default_factory=dict)
    done: list[dict[str, Any]] = field(default_factory=list)
    id: str = ""

    async def ask(self, **keys: Any) -> dict[str, Any] | None:
        """Ask for a task."""
        body = {**({"target": self.target, "owner": self.name} if self.target else {}), **keys}
        answer = await self.stage.call("POST", "/tasks/next", body, token=self.token)
        return None if answer is None else answer["task"]

    async def report(self, task: dict[str, Any], result: Result | None = None) -> httpx.Response:
        """Report the result of a task."""
        found = RESULTS.get(task["kind"], lambda _: {"seconds": 0.5})(task) if result is None else result
        path = f"/tasks/{task['id']}/result"
        return await self.stage.raw("POST", path, {"result": found}, token=self.token)

    async def fail(self, task: dict[str, Any], message: str = "it broke", retryable: bool = False) -> None:
        """Report that a task did not work out."""
        body = {"message": message, "retryable": retryable}
        await self.stage.call("POST", f"/tasks/{task['id']}/error", body, token=self.token)

    async def work(self) -> bool:
        """Do one task, if there is one."""
        task = await self.ask()
        if task is None:
            return False
        act = self.acts.get(task["kind"])
        result = act(task) if act is not None else RESULTS.get(task["kind"], lambda _: {"seconds": 0.5})(task)
        self.done.append(task)
        if result is None:
            return False
        answer = await self.report(task, result)
        assert answer.status_code in (200, 409), answer.text
        return True


@dataclass
class Cast:
    """Clients and servers that play together."""

    stage: Stage
    clients: list[Player]
    split: Player
    fed: Player

    @property
    def all(self) -> list[Player]:
        return [*self.clients, self.split, self.fed]

    async def play(
        self,
        run: str,
        *,
        without: tuple[int, ...] = (),
        until: Callable[[dict[str, Any]], bool] | None = None,
        most: int = 400,
    ) -> dict[str, Any]:
        """Work until the run has ended (or ``until`` says so), and return it; stop where nobody has work any more."""
        players = [p for n, p in enumerate(self.clients) if n not in without] + [self.split, self.fed]
        for _ in range(most):
            worked = [await player.work() for player in players]
            found = await self.stage.run(run)
            if found["state"] in ("done", "failed", "cancelled") or (until is not None and until(found)):
                return found
            if not any(worked):
                await self.stage.tick()
                if not any([await player.work() for player in players]):
                    return await self.stage.run(run)
        raise AssertionError(f"the run did not come to an end: {found}")

    def tasks(self, kind: str) -> list[dict[str, Any]]:
        """Every task of a kind that was done, in the order of rounds and turns."""
        found = [task for player in self.all for task in player.done if task["kind"] == kind]
        return sorted(found, key=lambda t: (t["round"], t["payload"].get("turn", t["payload"].get("client", 0))))


async def enrolled(stage: Stage, name: str, **labels: str) -> Player:
    """Return a client that has just joined."""
    body = {"name": name, "capabilities": {"labels": labels}}
    found = await stage.call("POST", "/clients", body, token=ENROL)
    return Player(stage, name, found["key"], id=found["client_id"])


async def cast(stage: Stage, clients: int = 3) -> Cast:
    """Return clients a, b, c, ... and one server of each kind."""
    joined = [await enrolled(stage, "abcdefghij"[n]) for n in range(clients)]
    split, fed = (Player(stage, f"{kind}-1", SERVICE, kind) for kind in ("split", "fed"))
    return Cast(stage, joined, split, fed)


async def submitted(stage: Stage, algorithm: str, *, clients: Any = 3, rounds: int = 2, **keys: Any) -> str:
    """Submit an experiment and return the run's id."""
    tree = {"algorithm": algorithm, "clients": clients, "rounds": rounds, **keys}
    found = await stage.call("POST", "/runs", {"experiment": tree})
    return str(found["id"])


async def training(stage: Stage, actors: Cast, run: str) -> None:
    """Play until the first round trains, without any of its training."""
    for _ in range(3):
        for player in actors.all:
            task = await player.ask(kinds=["prepare", "setup"])
            if task is not None:
                await player.report(task)
    assert (await stage.run(run))["state"] == "running"


async def given(player: Player) -> dict[str, Any]:
    """Return the task that must be there for this player."""
    task = await player.ask()
    assert task is not None
    return task


def play(scene: Coroutine[Any, Any, None], seconds: float = 120.0) -> None:
    """Run a scene to its end; one that hangs fails."""
    asyncio.run(asyncio.wait_for(scene, seconds))
