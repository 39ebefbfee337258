"""Whole runs through the HTTP API, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cutlayer.recipes import get
from cutlayer.roles.coordinator import plan
from cutlayer.services import tickets
from tests.services.backend.stage import SAMPLES, SECRET, Stage, cast, enrolled, given, play, submitted, training

Database = Callable[[], str]
ALGORITHMS = ["vanilla", "splitfed_v2", "file_sync", "fedavg"]


def story(events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What happened, without what differs between two tellings: ids and times."""
    told = []
    for event in events:
        data = {k: v for k, v in event["data"].items() if k not in ("time", "seconds", "token", "target")}
        told.append((event["kind"], event["round"], data))
    return told


class TestRuns:
    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_a_run_goes_through_all_its_states(self, algorithm: str, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage)
                run = await submitted(stage, algorithm)
                found = await actors.play(run)
                assert found["state"] == "done", found
                events = await stage.events(run)
                states = [e["data"]["state"] for e in events if e["kind"] == "run.state"]
                assert states == ["preparing", "running", "finishing", "done"]
                rounds = [(e["round"], e["data"]["state"]) for e in events if e["kind"] == "round.state"]
                each = ["selected", "training", "closing", "evaluating", "done"]
                assert rounds == [(n, state) for n in (1, 2) for state in each]
                self._check_tasks(actors, algorithm)
                await self._check_figures(stage, run, found)

        play(scene())

    def _check_tasks(self, actors: Any, algorithm: str) -> None:
        recipe = get(algorithm)
        for n in (1, 2):
            order = plan(recipe, 0, n, 3).clients
            trained = [t for t in actors.tasks("train") if t["round"] == n]
            assert [t["payload"]["client"] for t in trained] == list(order)
            assert [t["payload"]["turn"] for t in trained] == [0, 1, 2]
        given = [t["payload"]["giver"] for t in actors.tasks("train")]
        assert given == ([None, 0, 1, 2, 0, 1] if algorithm == "vanilla" else [None] * 6)
        readable = [tickets.verify(SECRET, t["ticket"]).giver for t in actors.tasks("train") + actors.tasks("evaluate")]
        assert readable == given + ([2] * 6 if algorithm == "vanilla" else [None] * 6)
        split = 0 if algorithm == "fedavg" else 1
        counts = {kind: len(actors.tasks(kind)) for kind in ("setup", "finish", "aggregate", "score", "conclude")}
        assert counts == {"setup": 1 + split, "finish": 2 * split, "aggregate": 2, "score": 2, "conclude": 1}
        for task in actors.tasks("finish") + actors.tasks("aggregate"):
            assert task["payload"]["clients"] == list(plan(recipe, 0, task["round"], 3).clients)
        holders = [t["payload"]["holder"] for t in actors.tasks("aggregate")]
        assert holders == ([2, 2] if algorithm == "vanilla" else [None, None])

    async def _check_figures(self, stage: Stage, run: str, found: dict[str, Any]) -> None:
        lines = await stage.call("GET", f"/runs/{run}/metrics")
        assert [m["round"] for m in lines] == [1, 2]
        assert await stage.call("GET", f"/runs/{run}/metrics?after=1") == lines[1:]
        total = sum(SAMPLES[:3])
        loss = sum(SAMPLES[n] * (1.0 + n) for n in range(3)) / total
        assert lines[0]["loss"] == pytest.approx(loss)
        assert lines[0]["samples"] == total
        assert lines[0]["bytes"] == {"activations": 300, "cut_gradients": 150}
        assert lines[0]["test_accuracy"] == 0.9
        assert lines[0]["client_accuracy"] == {"0": 0.5, "1": 0.6, "2": 0.7}
        assert lines[0]["own_accuracy"] == 0.6
        assert [e["data"] for e in await stage.events(run) if e["kind"] == "round"] == lines
        assert found["summary"]["test_accuracy"] == 0.9
        assert found["summary"]["rounds"] == 2
        assert found["evaluation"]["confusion"] == [[45, 5], [5, 45]]
        rounds = await stage.call("GET", f"/runs/{run}/rounds")
        assert [sorted(r["finished"]) for r in rounds] == [[0, 1, 2], [0, 1, 2]]
        assert [r["metrics"] for r in rounds] == lines
        planned = await stage.call("GET", f"/runs/{run}/rounds/1/plan")
        assert planned["participants"] == rounds[0]["participants"]
        assert {p["client"]: p["samples"] for p in planned["participants"]} == dict(enumerate(SAMPLES[:3]))

    @pytest.mark.parametrize("algorithm", ["vanilla", "file_sync"])
    def test_a_backend_that_is_made_anew_before_every_request_tells_the_same_story(
        self, algorithm: str, database: Database, tmp_path: Path
    ) -> None:
        stories = []

        async def scene(restless: bool) -> None:
            async with Stage(database(), tmp_path / str(restless), restless=restless) as stage:
                actors = await cast(stage, 2)
                run = await submitted(stage, algorithm, clients=2, rounds=1)
                found = await actors.play(run)
                assert found["state"] == "done", found
                stories.append(story(await stage.events(run)))

        play(scene(False))
        play(scene(True))
        assert stories[0] == stories[1]

    def test_a_run_waits_until_enough_clients_fit(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                await enrolled(stage, "a")
                clients = {"count": 3, "minimum": 2, "require": {"site": "north"}}
                run = await submitted(stage, "vanilla", clients=clients)
                await enrolled(stage, "c", site="north")
                await enrolled(stage, "b", site="south")
                await stage.tick()
                assert (await stage.run(run))["state"] == "queued"
                await enrolled(stage, "d", site="north")
                await stage.tick()
                found = await stage.run(run)
                assert found["state"] == "preparing"
                assert [m["name"] for m in found["members"]] == ["c", "d"]
                assert found["clients"] == 2

        play(scene())

    def test_a_client_that_gets_the_labels_later_is_taken(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                client = await enrolled(stage, "a")
                run = await submitted(stage, "vanilla", clients={"count": 1, "require": {"site": "north"}})
                body = {"name": "a", "capabilities": {"labels": {"site": "north"}}}
                again = await stage.call("POST", "/clients", body, token=client.token)
                assert again["client_id"] == client.id
                await stage.tick()
                assert (await stage.run(run))["state"] == "preparing"

        play(scene())

    def test_clients_whose_data_do_not_fit_together_end_the_run(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 2)
                said = {"samples": 5, "classes": 2, "inputs": [{"shape": [64], "dtype": "float32"}]}
                actors.clients[1].acts["prepare"] = lambda task: said
                run = await submitted(stage, "vanilla", clients=2)
                found = await actors.play(run)
                assert found["state"] == "failed"
                assert found["reason"] == "all clients must have the same classes: a has 10, b has 2"

        play(scene())

    def test_pausing_hands_out_nothing_and_accepts_what_is_in_flight(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage)
                run = await submitted(stage, "vanilla")
                a, b, _ = actors.clients
                await training(stage, actors, run)
                task = await given(a)
                await stage.call("POST", f"/runs/{run}/pause")
                await stage.call("POST", f"/runs/{run}/pause")
                beat = await stage.call("POST", f"/tasks/{task['id']}/heartbeat", {}, token=a.token)
                assert beat == {"cancelled": False, "paused": True, "evaluate": False}
                assert (await a.report(task)).status_code == 200
                assert await b.ask() is None
                found = await stage.run(run)
                assert (found["paused"], found["cause"], found["reason"]) == (True, "operator", "paused by first")
                await stage.call("POST", f"/runs/{run}/resume")
                await stage.call("POST", f"/runs/{run}/resume")
                assert (await actors.play(run))["state"] == "done"

        play(scene())

    def test_a_run_that_is_cancelled_is_over_for_everyone(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage)
                run = await submitted(stage, "file_sync")
                task = await actors.clients[0].ask()
                assert task is not None
                for _ in range(2):
                    await stage.call("POST", f"/runs/{run}/cancel")
                path = f"/tasks/{task['id']}/heartbeat"
                beat = await stage.call("POST", path, {}, token=actors.clients[0].token)
                assert beat["cancelled"]
                refused = await actors.clients[0].report(task)
                assert refused.status_code == 409
                assert refused.json()["code"] == "cancelled"
                assert [await player.ask() for player in actors.all] == [None] * 5
                found = await stage.run(run)
                assert (found["state"], found["reason"]) == ("cancelled", "cancelled by first")
                for act in ("pause", "resume"):
                    assert (await stage.raw("POST", f"/runs/{run}/{act}")).status_code == 409

        play(scene())

    def test_two_runs_go_on_side_by_side(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage)
                runs = [await submitted(stage, algorithm) for algorithm in ("vanilla", "fedavg")]
                for run in runs:
                    assert (await actors.play(run))["state"] == "done"
                listed = await stage.call("GET", "/runs?limit=1")
                assert [r["id"] for r in listed["runs"]] == [runs[1]] or stage.clock() == 1_000_000.0
                rest = await stage.call("GET", f"/runs?limit=1&after={listed['next']}")
                assert {r["id"] for r in listed["runs"] + rest["runs"]} == set(runs)
                assert rest["next"] is None
                assert (await stage.call("GET", "/runs?state=queued"))["runs"] == []

        play(scene())

    def test_the_same_submission_is_the_same_run(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                body = {
                    "experiment": {"algorithm": "vanilla"},
                    "name": "mine",
                    "submission": "0b5c0a86-3a3c-4a0e-9f5f-1f2f3f4f5f6f",
                }
                first = await stage.call("POST", "/runs", body)
                assert first == await stage.call("POST", "/runs", body)
                assert first["id"].startswith("mine-")
                other = await stage.call("POST", "/runs", {**body, "submission": None})
                assert other != first

        play(scene())

    @pytest.mark.parametrize(
        ("tree", "sentence"),
        [
            ({"rounds": 0}, "rounds: input should be greater than or equal to 1"),
            ({"algorithm": "vanila"}, "did you mean vanilla?"),
            ({"algorithm": "os:system"}, "a backend runs no code that an experiment names"),
            ({"algorithm": "centralized"}, "needs all data in one place"),
            ({"algorithm": {"name": "vanilla", "step": "window"}}, "contradicts itself"),
            ({"algorithm": {"name": "vanilla", "averaged": 5}}, "a value of a kind that none of its keys takes"),
            ({"aggregator": "fedsum"}, "aggregator must be one of fedavg"),
            ({"codec": "gzip"}, "codec must be one of fp32"),
            ({"model": {"name": "mlp", "width": 3}}, "model mlp has no option 'width'; it has: hidden, dropout"),
            ({"data": "digitz"}, "data must be one of digits"),
            (
                {"algorithm": "file_sync", "codec": {"name": "topk", "feedback": True}},
                "codec for cut_gradients keeps an error to feed back, which a replica of algorithm file_sync cannot",
            ),
            ({"algorithm": "splitfed_async", "clients": {"join": True}}, "all clients take part from the beginning"),
            ({"seeds": 3}, "submit one run per seed"),
            ({"clients": 10**6}, "at most 10000"),
            ({"clients": {"count": 2, "minimum": 3}}, "minimum must be at most count"),
            ({"clients": {"quorum": 0}}, "clients.quorum"),
            ({"rounds": 10**9}, "rounds must be at most"),
        ],
    )
    def test_what_services_cannot_run_is_refused_with_a_sentence(
        self, tree: dict[str, Any], sentence: str, tmp_path: Path
    ) -> None:
        async def scene() -> None:
            async with Stage(f"sqlite+aiosqlite:///{tmp_path}/x.db", tmp_path) as stage:
                answer = await stage.raw("POST", "/runs", {"experiment": tree})
                assert answer.status_code == 422
                assert answer.json()["code"] == "bad_experiment"
                assert sentence in answer.json()["error"]

        play(scene())
