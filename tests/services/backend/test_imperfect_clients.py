"""Clients that are late, away, broken, or come back: the run waits or goes on, and says which."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.services.backend.stage import RESULTS, Player, Stage, cast, enrolled, given, play, submitted, training

Database = Callable[[], str]


async def signs_of_life(stage: Stage, *players: Player) -> None:
    for player in players:
        await player.ask(kinds=["setup"])


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [e["kind"] for e in events]


class TestImperfectClients:
    def test_past_the_deadline_a_round_ends_with_its_quorum(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path, lost_after=1000.0, lease_seconds=500.0) as stage:
                actors = await cast(stage)
                clients = {"count": 3, "deadline": 60.0, "quorum": 0.6}
                run = await submitted(stage, "splitfed_v1", clients=clients, rounds=1)
                await training(stage, actors, run)
                a, b, c = actors.clients
                late = await given(c)
                for player in (a, b):
                    await player.report(await given(player))
                await stage.tick()
                assert (await stage.call("GET", f"/runs/{run}/rounds"))[0]["dropped"] == []
                stage.later(60.0)
                await stage.tick()
                (found,) = await stage.call("GET", f"/runs/{run}/rounds")
                assert (found["finished"], found["dropped"]) == ([0, 1], [2])
                assert (await c.report(late)).status_code == 409
                end = await actors.split.ask()
                assert end is not None
                assert (end["kind"], end["payload"]["client"]) == ("end", 2)
                assert (await actors.play(run))["state"] == "done"
                (finish,) = actors.tasks("finish")
                assert finish["payload"]["clients"] == [0, 1]
                (line,) = await stage.call("GET", f"/runs/{run}/metrics")
                assert (line["clients"], line["dropped"]) == (2, [2])
                (dropped,) = [e for e in await stage.events(run) if e["kind"] == "client.dropped"]
                assert dropped["data"]["reason"] == "c did not finish before the deadline"
                assert dropped["client"] == c.id

        play(scene())

    def test_a_relay_skips_the_dead(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage)
                run = await submitted(stage, "vanilla", clients={"count": 3, "quorum": 0.6}, rounds=1)
                await training(stage, actors, run)
                a, b, c = actors.clients
                await a.report(await given(a))
                await given(b)
                stage.later(80.0)
                await signs_of_life(stage, a, c)
                stage.later(80.0)
                await signs_of_life(stage, a, c)
                await stage.tick()
                assert await c.ask() is None, "the end mark comes first"
                end = await given(actors.split)
                assert end["kind"] == "end"
                await actors.split.report(end)
                turn = await given(c)
                assert (turn["kind"], turn["payload"]["giver"]) == ("train", 0)
                assert (await actors.play(run, without=(1,)))["state"] == "done"
                told = kinds(await stage.events())
                assert told.count("client.lost") == 1
                assert told.count("client.dropped") == 1

        play(scene())

    def test_with_the_whole_quorum_a_run_waits_and_goes_on_when_the_client_is_back(
        self, database: Database, tmp_path: Path
    ) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage)
                run = await submitted(stage, "splitfed_v1", clients={"count": 3, "deadline": 300.0}, rounds=1)
                await training(stage, actors, run)
                a, b, c = actors.clients
                for player in (a, b):
                    await player.report(await given(player))
                await given(c)
                stage.later(301.0)
                await signs_of_life(stage, a, b)
                await stage.tick()
                found = await stage.run(run)
                assert (found["state"], found["paused"], found["cause"]) == ("running", True, "quorum")
                assert "3 of 3 clients must finish round 1" in found["reason"]
                assert "quorum" in kinds(await stage.events(run))
                await signs_of_life(stage, c)
                await stage.tick()
                assert not (await stage.run(run))["paused"]
                assert (await stage.call("GET", f"/runs/{run}/rounds"))[0]["deadline"] == stage.clock() + 300.0
                assert (await actors.play(run))["state"] == "done"
                assert "client.dropped" not in kinds(await stage.events(run))

        play(scene())

    def test_a_client_that_failed_is_dropped_or_waited_for(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage)
                run = await submitted(stage, "splitfed_v1", clients={"count": 3, "quorum": 0.6}, rounds=1)
                await training(stage, actors, run)
                a, b, _ = actors.clients
                await a.fail(await given(a), "out of memory")
                assert (await stage.call("GET", f"/runs/{run}/rounds"))[0]["dropped"] == [0]
                await b.fail(await given(b), "no space")
                found = await stage.run(run)
                assert found["cause"] == "quorum"
                assert "no space" in found["reason"]
                await signs_of_life(stage, b)
                await stage.tick()
                assert (await stage.run(run))["paused"], "an operator lets it try again"
                await stage.call("POST", f"/runs/{run}/resume")
                assert (await actors.play(run))["state"] == "done"

        play(scene())

    def test_who_does_not_answer_an_evaluation_is_left_out(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage)
                run = await submitted(stage, "fedavg", clients={"count": 3, "deadline": 30.0}, rounds=1)
                actors.clients[1].acts["evaluate"] = lambda task: None
                await actors.play(run)
                assert (await stage.call("GET", f"/runs/{run}/rounds"))[0]["state"] == "evaluating"
                stage.later(31.0)
                await stage.tick()
                assert (await actors.play(run))["state"] == "done"
                (line,) = await stage.call("GET", f"/runs/{run}/metrics")
                assert line["client_accuracy"] == {"0": 0.5, "2": 0.7}

        play(scene())

    def test_a_backend_that_was_down_for_long_blames_nobody(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage)
                run = await submitted(stage, "splitfed_v1", clients={"count": 3, "quorum": 0.3}, rounds=1)
                await training(stage, actors, run)
                a, b, c = actors.clients
                tasks = [await given(player) for player in (a, b, c)]
                await a.report(tasks[0])
                stage.later(10_000.0)
                await stage.restart()
                await stage.tick()
                assert (await stage.call("GET", f"/runs/{run}/rounds"))[0]["dropped"] == []
                for player, task in ((b, tasks[1]), (c, tasks[2])):
                    beat = await stage.call("POST", f"/tasks/{task['id']}/heartbeat", {}, token=player.token)
                    assert not beat["cancelled"]
                    await player.report(task)
                assert (await actors.play(run))["state"] == "done"
                events = await stage.events()
                assert not {"client.lost", "client.dropped", "task.failed"} & set(kinds(events))

        play(scene())

    def test_who_was_gone_before_a_restart_is_not_chosen_after_it(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                await cast(stage, 1)
                stage.later(10_000.0)
                await stage.restart()
                run = await submitted(stage, "vanilla", clients=1)
                assert (await stage.run(run))["state"] == "queued"
                stage.later(91.0)
                await stage.tick()
                assert kinds(await stage.events()).count("client.lost") == 1

        play(scene())

    def test_a_client_that_is_revoked_counts_as_away(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage)
                run = await submitted(stage, "splitfed_v2", clients={"count": 3, "quorum": 0.6}, rounds=1)
                await training(stage, actors, run)
                await stage.call("DELETE", f"/clients/{actors.clients[1].id}")
                found = await actors.play(run, without=(1,))
                assert found["state"] == "done"
                assert (await stage.call("GET", f"/runs/{run}/rounds"))[0]["dropped"] == [1]

        play(scene())

    def test_who_vanishes_before_training_is_replaced(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 4)
                run = await submitted(stage, "splitfed_v1", clients=3, rounds=1)
                a, b, c, d = actors.clients
                for player in (a, c):
                    await player.report(await given(player))
                former = await given(b)
                stage.later(60.0)
                await signs_of_life(stage, a, c, d)
                stage.later(60.0)
                await stage.tick()
                members = (await stage.run(run))["members"]
                assert [m["name"] for m in members] == ["a", "d", "c"]
                assert (await b.report(former)).status_code == 404, "nobody waits for it"
                assert (await actors.play(run, without=(1,)))["state"] == "done"
                events = await stage.events(run)
                (dropped,) = [e for e in events if e["kind"] == "client.dropped"]
                assert (dropped["client"], dropped["data"]["reason"]) == (b.id, "b is away")
                (seated,) = [e for e in events if e["kind"] == "client.seated"]
                assert (seated["client"], seated["data"]) == (d.id, {"number": 1, "name": "d"})

        play(scene())

    def test_who_vanishes_before_training_is_waited_for_in_the_queue(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage)
                run = await submitted(stage, "vanilla", clients=3, rounds=1)
                a, _, c = actors.clients
                await c.report(await given(c))
                early = await given(a)
                stage.later(60.0)
                await signs_of_life(stage, a, c)
                stage.later(60.0)
                await stage.tick()
                found = await stage.run(run)
                assert (found["state"], found["members"], found["clients"]) == ("queued", [], None)
                assert found["reason"].startswith("b went away before training began")
                assert found["reason"].endswith("the run begins when 3 clients are there")
                states = [e["data"] for e in await stage.events(run) if e["kind"] == "run.state"]
                assert (states[-1]["state"], states[-1]["reason"]) == ("queued", found["reason"])
                assert (await a.report(early)).status_code == 404
                await enrolled(stage, "later")  # whoever comes makes the number full
                assert [m["name"] for m in (await stage.run(run))["members"]] == []
                await stage.tick()
                assert [m["name"] for m in (await stage.run(run))["members"]] == ["a", "c", "later"]
                await stage.call("POST", f"/runs/{run}/cancel")

        play(scene())

    def test_with_enough_left_the_run_begins_with_those(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage)
                run = await submitted(stage, "fedavg", clients={"count": 3, "minimum": 2}, rounds=1)
                await stage.call("DELETE", f"/clients/{actors.clients[0].id}")
                await stage.tick()
                assert [m["name"] for m in (await stage.run(run))["members"]] == ["b", "c"]
                found = await actors.play(run, without=(0,))
                assert (found["state"], found["clients"]) == ("done", 2)

        play(scene())

    def test_who_comes_later_joins_from_the_next_round_on(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 2)
                clients = {"count": 3, "minimum": 2, "join": True}
                run = await submitted(stage, "splitfed_v1", clients=clients, rounds=3)
                await training(stage, actors, run)
                assert (await stage.run(run))["clients"] == 3
                odd, c, d = [await enrolled(stage, name) for name in ("odd", "pat", "quinn")]
                await stage.tick()
                task = await given(odd)
                assert (task["kind"], task["payload"]) == ("prepare", {"run": run, "client": 2, "clients": 3})
                await odd.report(task, {**RESULTS["prepare"](task), "classes": 7})
                actors.clients += [odd, c, d]
                assert (await actors.play(run))["state"] == "done"
                rounds = await stage.call("GET", f"/runs/{run}/rounds")
                assert [r["finished"] for r in rounds] == [[0, 1], [0, 1, 2], [0, 1, 2]]
                assert [m["name"] for m in (await stage.run(run))["members"]] == ["a", "b", "pat"]
                events = await stage.events(run)
                (refused,) = [e for e in events if e["kind"] == "client.dropped"]
                assert refused["client"] == odd.id
                assert refused["data"]["reason"] == "odd has other classes than the clients of this run"
                (seated,) = [e for e in events if e["kind"] == "client.seated"]
                assert (seated["round"], seated["client"]) == (1, c.id)
                assert seated["data"] == {"number": 2, "name": "pat", "samples": 50}
                assert not d.done, "there is no number left"

        play(scene())

    def test_without_join_nobody_comes_later(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 2)
                run = await submitted(stage, "fedavg", clients={"count": 3, "minimum": 2}, rounds=2)
                await training(stage, actors, run)
                late = await enrolled(stage, "late")
                await stage.tick()
                assert await late.ask() is None
                assert (await actors.play(run))["clients"] == 2

        play(scene())
