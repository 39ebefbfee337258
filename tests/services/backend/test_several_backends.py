"""Several backends on one PostgreSQL: no task twice, and what one does the others hear."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

from tests.services.backend.postgres import Server
from tests.services.backend.stage import SERVICE, Cast, Player, Stage, cast, enrolled, play, submitted
from tests.services.backend.test_events import followed


def test_no_task_is_handed_out_twice(postgresql: Server, tmp_path: Path) -> None:
    async def scene() -> None:
        url = postgresql.database()
        async with Stage(url, tmp_path / "a") as a, Stage(url, tmp_path / "b") as b:
            actors = await cast(a, 1)
            runs = [await submitted(a, "vanilla", clients=1) for _ in range(12)]
            for _ in runs:
                await actors.clients[0].work()
            workers = [Player((a, b)[n % 2], f"split-{n}", SERVICE, "split") for n in range(24)]
            found = await asyncio.gather(*(worker.ask() for worker in workers))
            given = [task["id"] for task in found if task is not None]
            assert len(given) == 12
            assert len(set(given)) == 12

    play(scene())


def test_a_run_is_driven_through_two_backends_at_once(postgresql: Server, tmp_path: Path) -> None:
    async def scene() -> None:
        url = postgresql.database()
        async with Stage(url, tmp_path / "a") as a, Stage(url, tmp_path / "b") as b:
            actors = await cast(a, 3)
            for n, player in enumerate(actors.all):
                player.stage = (a, b)[n % 2]
            run = await submitted(b, "file_sync", rounds=3)
            for _ in range(60):
                await asyncio.gather(*(player.work() for player in actors.all))
                if (await a.run(run))["state"] == "done":
                    break
            assert (await b.run(run))["state"] == "done"
            done = Counter((t["kind"], t["round"]) for player in actors.all for t in player.done)
            assert {kind: n for (kind, _), n in done.items()} == {
                "prepare": 3, "setup": 2, "train": 3, "finish": 1, "aggregate": 1, "evaluate": 3, "score": 1,
                "conclude": 1,
            }  # fmt: skip
            assert len(await a.call("GET", f"/runs/{run}/metrics")) == 3

    play(scene())


def test_reports_that_come_to_both_count_once(postgresql: Server, tmp_path: Path) -> None:
    async def scene() -> None:
        url = postgresql.database()
        async with Stage(url, tmp_path / "a") as a, Stage(url, tmp_path / "b") as b:
            actors = await cast(a, 3)
            run = await submitted(a, "fedavg", rounds=1)
            tasks = [await client.ask() for client in actors.clients]
            mirrored = [Player(b, client.name, client.token) for client in actors.clients]
            reports = [
                player.report(task)
                for one, other, task in zip(actors.clients, mirrored, tasks, strict=True)
                for player in (one, other)
                if task is not None
            ]
            assert {answer.status_code for answer in await asyncio.gather(*reports)} == {200}
            everyone = Cast(b, actors.clients, actors.split, actors.fed)
            assert (await everyone.play(run))["state"] == "done"
            assert len(await a.call("GET", f"/runs/{run}/metrics")) == 1

    play(scene())


def test_who_waits_at_one_is_woken_by_the_other(postgresql: Server, tmp_path: Path) -> None:
    async def scene() -> None:
        url = postgresql.database()
        async with Stage(url, tmp_path / "a", clock=time.time) as a, Stage(url, tmp_path / "b", clock=time.time) as b:
            client = await enrolled(a, "a")
            elsewhere = Player(b, "a", client.token)
            waiting = asyncio.create_task(elsewhere.ask(wait=30))
            async with followed(b) as heard:
                while (await asyncio.wait_for(heard.get(), 20))["kind"] != "client.joined":
                    pass
                run = await submitted(a, "vanilla", clients=1)
                task = await asyncio.wait_for(waiting, 20)
                assert task is not None
                assert task["run"] == run
                assert (await asyncio.wait_for(heard.get(), 20))["kind"] == "run.submitted"

    play(scene())


def test_what_one_left_behind_the_other_goes_on_with(postgresql: Server, tmp_path: Path) -> None:
    async def scene() -> None:
        url = postgresql.database()
        async with Stage(url, tmp_path / "b") as b:
            async with Stage(url, tmp_path / "a") as a:
                actors = await cast(a, 2)
                run = await submitted(a, "splitfed_v2", clients=2)
                await actors.play(run, most=3, until=lambda r: r["state"] == "running")
            for player in actors.all:
                player.stage = b
            actors.stage = b
            assert (await actors.play(run))["state"] == "done"

    play(scene())
