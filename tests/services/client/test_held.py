"""A client goes back and forth between runs without loading anything again, and lets go of those that ended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cutlayer.config import load
from cutlayer.services.client import agent as agents
from cutlayer.services.client.agent import Agent
from cutlayer.services.client.held import HeldRuns
from cutlayer.services.errors import NotFound
from cutlayer.services.protocol import RunView, Task
from cutlayer.services.settings import ClientSettings


class Store:
    """Makes data, and counts."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def __call__(self, *what: Any) -> Any:
        self.made.append(what)
        return SimpleNamespace(outline=None, report=None)


def test_runs_in_turn_load_once_each() -> None:
    store, held = Store(), HeldRuns(2)
    for _ in range(3):
        for run in ("a", "b"):
            held.of(run, 0, 3, lambda r=run: store(r))  # type: ignore[misc]
    assert store.made == [("a",), ("b",)]


def test_no_more_than_so_many_are_kept_the_least_recently_used_goes() -> None:
    store, held = Store(), HeldRuns(2)
    for run in ("a", "b", "a", "c"):
        held.of(run, 0, 3, store)
    assert ("a" in held, "b" in held, "c" in held, len(held)) == (True, False, True, 2)


def test_another_number_is_other_data() -> None:
    store, held = Store(), HeldRuns()
    first = held.of("a", 0, 3, store)
    assert held.of("a", 1, 3, store) is not first
    assert held.member("a", 0) is None
    assert held.of("a", 1, 2, store).clients == 2
    assert len(store.made) == 3
    assert len(held) == 1


def test_a_failure_spoils_what_was_computed_and_not_the_data() -> None:
    store, held = Store(), HeldRuns()
    held.of("a", 0, 3, store).member = SimpleNamespace()  # type: ignore[assignment]
    assert held.member("a", 0) is not None
    held.spoilt("a")
    held.spoilt("unknown")
    assert held.member("a", 0) is None
    held.of("a", 0, 3, store)
    assert len(store.made) == 1


class TheBackend:
    """Has runs, and hands out a train task of each in turn until told to stop."""

    def __init__(self, agent: Agent, turns: list[str | None], states: dict[str, str]) -> None:
        self.agent, self.turns, self.states = agent, turns, states
        self.link = SimpleNamespace(close=lambda: None)

    def run(self, run: str) -> RunView:
        if run not in self.states:
            raise NotFound(f"there is no run {run}")
        experiment = load(None, (), clients=2).as_dict()
        return RunView(
            id=run, state=self.states[run], algorithm="x", experiment=experiment, rounds=1, created=0.0, clients=2
        )

    def next_task(self) -> Task | None:
        if not self.turns:
            self.agent.stop.set()
            return None
        run = self.turns.pop(0)
        if run is None:
            return None
        payload = {"client": 0, "clients": 2}
        return Task(id="t", run=run, round=0, kind="prepare", payload=payload, lease_seconds=60.0)

    def result(self, task: str, result: Any) -> None: ...

    def heartbeat(self, *_: Any) -> Any:
        return SimpleNamespace(cancelled=False)


def test_an_agent_keeps_the_runs_that_go_on(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()

    def own(source: str, experiment: Any, number: int, clients: int) -> Any:
        found = store(source)
        found.report = SimpleNamespace(model_dump=lambda mode: {})
        return found

    monkeypatch.setattr(agents, "own_data", own)
    agent = Agent(ClientSettings(folder=tmp_path))
    states = {"a": "running", "b": "running"}
    backend = TheBackend(agent, ["a", "b", "a", "b", None], states)
    monkeypatch.setattr(agent, "join", lambda: backend)
    agent.run()
    assert len(store.made) == 2
    assert len(agent._held) == 2
    states["a"] = "done"
    del states["b"]
    agent.stop.clear()
    backend.turns = [None]
    agent.run()
    assert len(agent._held) == 0, "what has ended, or is another's, is not kept"
