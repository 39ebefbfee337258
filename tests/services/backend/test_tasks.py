"""Tasks: leases, heartbeats, retries, and that nobody reports on what is not theirs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from cutlayer.services import tickets
from cutlayer.services.errors import Unauthorized
from tests.services.backend.stage import (
    OPERATOR,
    SECRET,
    SERVICE,
    Player,
    Stage,
    cast,
    enrolled,
    given,
    play,
    submitted,
    training,
)

Database = Callable[[], str]


class TestTasks:
    def test_a_client_that_asks_again_has_its_task_still(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 1)
                await submitted(stage, "vanilla", clients=1)
                first = await given(actors.clients[0])
                again = await given(actors.clients[0])
                assert first["id"] == again["id"]
                assert await actors.clients[0].ask(holding=[first["id"]]) is None
                assert await actors.clients[0].ask(kinds=["train"]) is None

        play(scene())

    def test_a_task_of_a_server_has_one_owner(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 1)
                run = await submitted(stage, "vanilla", clients=1)
                await actors.clients[0].work()
                other = Player(stage, "split-2", SERVICE, "split")
                task = await given(actors.split)
                assert await other.ask() is None
                assert (await given(actors.split))["id"] == task["id"]
                path = f"/tasks/{task['id']}/heartbeat"
                beat = await stage.call("POST", path, {"owner": "split-2"}, token=SERVICE)
                assert beat["cancelled"], "it is another's"
                stage.later(59.0)
                await stage.tick()
                assert await other.ask() is None
                stage.later(2.0)
                await stage.tick()
                taken = await given(other)
                assert taken["id"] == task["id"]
                beat = await stage.call("POST", path, {"owner": "split-1"}, token=SERVICE)
                assert beat["cancelled"], "it was too late"
                await stage.call(
                    "POST", f"/tasks/{task['id']}/error", {"message": "late", "owner": "split-1"}, token=SERVICE
                )
                assert (await actors.split.report(task)).status_code == 200, "work that is done is done"
                assert (await other.report(task)).status_code == 200
                (setup,) = [t for t in await stage.call("GET", f"/runs/{run}/tasks") if t["target"] == "split"]
                assert (setup["state"], setup["attempts"]) == ("done", 2)

        play(scene())

    def test_heartbeats_keep_a_task(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 1)
                run = await submitted(stage, "vanilla", clients=1)
                client = actors.clients[0]
                task = await given(client)
                path = f"/tasks/{task['id']}/heartbeat"
                for n in range(4):
                    stage.later(50.0)
                    await stage.tick()
                    body = {"progress": {"batches": n, "of": 9}}
                    assert not (await stage.call("POST", path, body, token=client.token))["cancelled"]
                    assert not (await stage.call("POST", path, body, token=client.token))["cancelled"]
                events = await stage.events(run)
                assert not [e for e in events if e["kind"] == "task.failed"]
                progress = [e["data"]["batches"] for e in events if e["kind"] == "progress"]
                assert progress == [0, 1, 2, 3], "not more than one in a while"
                stage.later(61.0)
                await stage.tick()
                (lost,) = [e for e in await stage.events(run) if e["kind"] == "task.failed"]
                assert lost["data"]["message"] == "its lease ended without a word"
                assert not (await stage.call("POST", path, {}, token=client.token))["cancelled"], "nobody took it"
                assert (await client.report(task)).status_code == 200

        play(scene())

    def test_a_server_that_fails_tries_again_later_and_then_the_run_waits(
        self, database: Database, tmp_path: Path
    ) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 1)
                run = await submitted(stage, "vanilla", clients=1)
                await actors.clients[0].work()
                for attempt in range(1, 6):
                    task = await given(actors.split)
                    await actors.split.fail(task, f"disk full {attempt}", retryable=True)
                    await actors.split.fail(task, "said twice", retryable=True)
                    assert await actors.split.ask() is None
                    stage.later(0.5 * 2 ** (attempt - 1))
                found = await stage.run(run)
                assert (found["cause"], found["paused"]) == ("failure", True)
                assert found["reason"] == "setup failed at the split server: disk full 5"
                assert await actors.split.ask() is None
                await stage.call("POST", f"/runs/{run}/resume")
                assert (await actors.play(run))["state"] == "done"
                failed = [e["data"]["retried"] for e in await stage.events(run) if e["kind"] == "task.failed"]
                assert failed == [True] * 4 + [False]

        play(scene())

    def test_a_server_that_fails_for_good_ends_the_run(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 2)
                run = await submitted(stage, "fedavg", clients=2)
                await training(stage, actors, run)
                for client in actors.clients:
                    await client.work()
                await actors.fed.fail(await given(actors.fed), "NaN in the update of client 1")
                found = await stage.run(run)
                assert found["state"] == "failed"
                assert found["reason"] == "aggregate failed at the fed server: NaN in the update of client 1"

        play(scene())

    def test_a_server_that_is_killed_again_and_again_pauses_the_run(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 1)
                run = await submitted(stage, "vanilla", clients=1)
                await actors.clients[0].work()
                for _ in range(20):
                    await given(actors.split)
                    stage.later(61.0)
                    await stage.tick()
                found = await stage.run(run)
                assert found["cause"] == "failure"
                assert "its worker was lost 20 times" in found["reason"]

        play(scene())

    def test_a_result_may_come_twice_and_must_fit(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 1)
                run = await submitted(stage, "vanilla", clients=1)
                client = actors.clients[0]
                task = await given(client)
                for wrong in ({}, {"samples": -1}, {"samples": True, "classes": 2, "inputs": []}, {"x": 1}):
                    answer = await client.report(task, wrong)
                    assert answer.status_code == 422
                    assert answer.json()["error"].startswith("the result of prepare does not fit: ")
                for _ in range(2):
                    assert (await client.report(task)).status_code == 200
                before = await stage.events(run)
                assert (await client.report(task)).status_code == 200
                assert await stage.events(run) == before

        play(scene())

    def test_tasks_belong_to_whom_they_were_given(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 1)
                other = await enrolled(stage, "other")
                await submitted(stage, "vanilla", clients=1)
                task = await given(actors.clients[0])
                bodies = {"heartbeat": {}, "result": {"result": {}}, "error": {"message": "x"}}
                for path, body in bodies.items():
                    for token in (other.token, SERVICE):
                        answer = await stage.raw("POST", f"/tasks/{task['id']}/{path}", body, token=token)
                        assert answer.status_code == 404
                    answer = await stage.raw("POST", f"/tasks/{uuid4()}/{path}", body, token=other.token)
                    assert answer.status_code == 404
                    answer = await stage.raw("POST", f"/tasks/{task['id']}/{path}", body, token=OPERATOR)
                    assert answer.status_code == 403, "operators do no work"
                await actors.clients[0].report(task)
                setup = await given(actors.split)
                answer = await stage.raw("POST", f"/tasks/{setup['id']}/result", {"result": {}}, token=other.token)
                assert answer.status_code == 404

        play(scene())

    def test_who_asks_must_say_who_it_is(self, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(f"sqlite+aiosqlite:///{tmp_path}/x.db", tmp_path) as stage:
                client = await enrolled(stage, "a")
                for body in ({}, {"target": "split"}, {"owner": "x"}):
                    assert (await stage.raw("POST", "/tasks/next", body, token=SERVICE)).status_code == 422
                assert (
                    await stage.raw("POST", "/tasks/next", {"target": "fed"}, token=client.token)
                ).status_code == 403

        play(scene())

    def test_a_ticket_says_what_its_task_may_do(self, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(f"sqlite+aiosqlite:///{tmp_path}/x.db", tmp_path, clock=time.time) as stage:
                actors = await cast(stage, 2)
                run = await submitted(stage, "vanilla", clients=2)
                client = actors.clients[1]
                task = await given(client)
                ticket = tickets.verify(SECRET, task["ticket"])
                assert (ticket.run, ticket.round, ticket.client) == (run, 0, 1)
                assert (ticket.task, ticket.kind, ticket.subject) == (task["id"], "prepare", client.id)
                assert ticket.expires > time.time() + 3600
                with pytest.raises(Unauthorized):
                    tickets.verify(SECRET + "x", task["ticket"])
                await client.report(task)
                await actors.clients[0].work()
                assert (await given(actors.split))["ticket"] is None

        play(scene())


class TestWaiting:
    """Long-polls, on the real clock."""

    def test_whoever_waits_is_woken_by_work(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path, clock=time.time) as stage:
                client = await enrolled(stage, "a")
                waiting = asyncio.create_task(client.ask(wait=30))
                await asyncio.sleep(0.05)
                await submitted(stage, "vanilla", clients=1)
                task = await asyncio.wait_for(waiting, 20)
                assert task is not None
                assert task["kind"] == "prepare"

        play(scene())

    def test_waiting_ends(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path, clock=time.time) as stage:
                client = await enrolled(stage, "a")
                assert await client.ask(wait=0.05) is None
                assert (await stage.raw("POST", "/tasks/next", {"wait": 31}, token=client.token)).status_code == 422

        play(scene())

    def test_another_attempt_is_handed_out_when_it_is_due(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path, clock=time.time) as stage:
                client = await enrolled(stage, "a")
                await submitted(stage, "vanilla", clients=1)
                task = await given(client)
                await client.fail(task, "not yet", retryable=True)
                again = await asyncio.wait_for(client.ask(wait=30), 20)
                assert again is not None
                assert again["id"] == task["id"]

        play(scene())

    def test_nobody_waits_for_a_service_that_stops(self, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(f"sqlite+aiosqlite:///{tmp_path}/x.db", tmp_path, clock=time.time) as stage:
                client = await enrolled(stage, "a")
                polls = [
                    asyncio.create_task(client.ask(wait=30)),
                    asyncio.create_task(stage.raw("GET", "/events")),
                ]
                await asyncio.sleep(0.05)
                stage.app.state.stopping.set()
                task, stream = await asyncio.wait_for(asyncio.gather(*polls), 20)
                assert task is None
                assert "client.joined" in stream.text

        play(scene())

    def test_a_lease_that_ends_is_noticed_without_a_request(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            keys = {"lease_seconds": 0.3, "lost_after": 30.0}
            async with Stage(database(), tmp_path, clock=time.time, **keys) as stage:
                actors = await cast(stage, 1)
                await submitted(stage, "vanilla", clients=1)
                await actors.clients[0].work()
                task = await given(actors.split)
                other = Player(stage, "split-2", SERVICE, "split")
                taken = await asyncio.wait_for(other.ask(wait=30), 20)
                assert taken is not None
                assert taken["id"] == task["id"]

        play(scene())

    def test_a_deadline_is_noticed_without_a_request(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path, clock=time.time) as stage:
                actors = await cast(stage, 2)
                clients = {"count": 2, "deadline": 0.5, "quorum": 0.5}
                run = await submitted(stage, "fedavg", clients=clients, rounds=1)
                await training(stage, actors, run)
                a, _ = actors.clients
                await a.report(await given(a))
                aggregate = await asyncio.wait_for(actors.fed.ask(wait=30), 20)
                assert aggregate is not None
                assert aggregate["payload"]["clients"] == [0]

        play(scene())
