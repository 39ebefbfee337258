"""What somebody who looks on reads: the course of a run, its clients' time, the system."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cutlayer.services.backend.condensed import packed, quantiles, unpacked
from cutlayer.services.backend.history import thinned
from tests.services.backend.stage import ENROL, SERVICE, Player, Stage, cast, given, play, submitted, training
from tests.services.backend.synthetic import SLOW, synthetic

Database = Callable[[], str]


async def beat(stage: Stage, id: str, **stats: Any) -> None:
    body = {"kind": "split", "id": id, "url": f"http://127.0.0.1/{id}", "stats": stats}
    await stage.call("POST", "/services/heartbeat", body, token=SERVICE)


class TestHistory:
    def test_it_is_what_the_rounds_say(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 4)
                run = await submitted(stage, "splitfed_v1", clients=4, rounds=3)
                empty = await stage.call("GET", f"/runs/{run}/history")
                assert (empty["rounds"], empty["total_rounds"], empty["thinned"]) == ([], 0, False)
                await actors.play(run)
                lines = await stage.call("GET", f"/runs/{run}/metrics")
                found = await stage.call("GET", f"/runs/{run}/history?clients=0,3,7")
                assert found["rounds"] == [1, 2, 3]
                assert found["total_rounds"] == 3
                assert not found["thinned"]
                for key in ("loss", "test_accuracy", "own_accuracy", "bytes_up", "bytes_down", "seconds", "samples"):
                    assert found["series"][key] == [line[key] for line in lines], key
                for what in ("client", "server", "federated", "evaluation"):
                    assert found["series"][f"{what}_seconds"] == [line["time"][what] for line in lines]
                ups = [line["bytes_up"] for line in lines]
                assert found["series"]["total_bytes_up"] == [sum(ups[: n + 1]) for n in range(3)]
                for number in ("0", "3"):
                    own = found["clients"][number]
                    assert own["accuracy"] == [line["client_accuracy"][number] for line in lines]
                    assert own["loss"] == [line["client_loss"][number] for line in lines]
                assert found["clients"]["7"] == {"accuracy": [None] * 3, "loss": [None] * 3}
                for key in ("client_accuracy", "client_loss"):
                    spread = [quantiles(line[key].values()) for line in lines]
                    for n, name in enumerate(("min", "q25", "median", "q75", "max")):
                        assert found["bands"][key][name] == [each[n] for each in spread if each is not None]
                events = await stage.events(run)
                assert found["event"] == events[-1]["id"]
                assert found["series"]["time"] == [e["time"] for e in events if e["kind"] == "round"]
                rest = await stage.call("GET", f"/runs/{run}/history?after=2")
                assert rest["rounds"] == [3]
                assert rest["series"]["total_bytes_up"] == [sum(ups)]
                assert (await stage.call("GET", f"/runs/{run}/history?after=3"))["rounds"] == []

        play(scene())

    def test_it_is_thinned_on_request(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 2)
                right = iter([0.2, 0.3, 0.9, 0.4, 0.5, 0.6, 0.7, 0.8])
                actors.split.acts["score"] = lambda task: {"count": 10, "correct": round(10 * next(right)), "loss": 1.0}
                run = await submitted(stage, "splitfed_v1", clients=2, rounds=8)
                await actors.play(run)
                lines = await stage.call("GET", f"/runs/{run}/metrics")
                found = await stage.call("GET", f"/runs/{run}/history?points=3&clients=1")
                assert found["rounds"] == [1, 3, 8]
                assert found["best_round"] == 3
                assert found["thinned"]
                assert found["total_rounds"] == 8
                assert found["series"]["test_accuracy"] == [0.2, 0.9, 0.8]
                ups = [line["bytes_up"] for line in lines]
                assert found["series"]["total_bytes_up"] == [ups[0], sum(ups[:3]), sum(ups)]
                assert found["clients"]["1"]["loss"] == [lines[n]["client_loss"]["1"] for n in (0, 2, 7)]

        play(scene())

    def test_figures_of_before_are_caught_up_with(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 2)
                run = await submitted(stage, "splitfed_v1", clients=2, rounds=2)
                await actors.play(run)
                before = await stage.call("GET", f"/runs/{run}/history?clients=0")
                listed = await stage.call("GET", "/runs")
                from sqlalchemy import delete, update

                from cutlayer.services.backend.tables import FigureRow, RunRow

                async with stage.app.state.backend.database.write() as unit:
                    await unit.session.execute(delete(FigureRow))
                    await unit.session.execute(update(RunRow).values(accuracy=None, bytes=0, seconds=0.0))
                assert (await stage.call("GET", f"/runs/{run}/history"))["rounds"] == []
                await stage.restart()
                assert await stage.call("GET", f"/runs/{run}/history?clients=0") == before
                assert await stage.call("GET", "/runs") == listed

        play(scene())

    def test_what_cannot_be_is_refused(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                run = await submitted(stage, "splitfed_v1")
                many = ",".join(str(n) for n in range(21))
                for query in ("points=1", "points=2001", "clients=a", "clients=1,,2", f"clients={many}", "after=-1"):
                    assert (await stage.raw("GET", f"/runs/{run}/history?{query}")).status_code == 422, query
                for query in ("count=101", "count=0", "first=-1", "since=nan", "since=2&until=1"):
                    assert (await stage.raw("GET", f"/runs/{run}/timeline?{query}")).status_code == 422, query
                for what in ("history", "timeline"):
                    assert (await stage.raw("GET", f"/runs/none/{what}")).status_code == 404

        play(scene())


class TestThinning:
    @pytest.mark.parametrize(("first", "last"), [(1, 10), (1, 11), (5, 1000), (1, 1_000_000)])
    @pytest.mark.parametrize("points", [2, 3, 10])
    def test_the_ends_and_the_best_stay(self, first: int, last: int, points: int) -> None:
        best = first + (last - first) // 3
        found = thinned(first, last, points, best)
        assert found == sorted(set(found))
        assert (found[0], found[-1]) == (first, last)
        assert len(found) == min(points, last - first + 1)
        assert best in found or points == 2

    def test_nothing_of_nothing(self) -> None:
        assert thinned(4, 3, 10, None) == []

    def test_quantiles(self) -> None:
        assert quantiles([]) is None
        assert quantiles([3.0]) == [3.0] * 5
        assert quantiles([4.0, 1.0, 2.0, 3.0]) == [1.0, 1.75, 2.5, 3.25, 4.0]

    def test_values_by_number_are_packed(self) -> None:
        piece = packed({"2": 0.5, "0": 1 / 3})
        assert [unpacked(piece, n) for n in range(4)] == [1 / 3, None, 0.5, None]
        assert packed({}) == b""


class TestTimeline:
    def test_spans_are_the_times_of_tasks(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 3)
                run = await submitted(stage, "splitfed_v1", rounds=1)
                await training(stage, actors, run)
                start = stage.clock()
                tasks = [await given(player) for player in actors.clients]
                stage.later(2.0)
                await actors.clients[0].report(tasks[0])  # of 2 s: 0.5 waiting, 0.25 sending
                stage.later(1.0)
                found = await stage.call("GET", f"/runs/{run}/timeline")
                assert (found["from"], found["to"], found["total"]) == (start, start + 3, 3)
                assert [c["name"] for c in found["clients"]] == ["a", "b", "c"]
                first, second, _ = (c["spans"] for c in found["clients"])
                assert [(s["kind"], s["state"], s["round"], s["from"] - start, s["to"] - start) for s in first] == [
                    ("train", "training", 1, 0.0, 1.25),
                    ("train", "waiting", 1, 1.25, 1.75),
                    ("train", "sending", 1, 1.75, 2.0),
                ]
                assert [(s["state"], s["from"] - start, s["to"] - start) for s in second] == [("training", 0.0, 3.0)]
                cut = await stage.call("GET", f"/runs/{run}/timeline?since={start + 1.5}&first=0&count=1")
                assert [(s["state"], s["from"] - start) for s in cut["clients"][0]["spans"]] == [
                    ("waiting", 1.5),
                    ("sending", 1.75),
                ]
                assert (cut["total"], len(cut["clients"])) == (3, 1)

        play(scene())

    def test_who_is_late_or_failed_is_seen(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 4)
                keys = {"clients": {"count": 4, "deadline": 20.0, "quorum": 0.5}}
                run = await submitted(stage, "splitfed_v1", rounds=1, **keys)
                await training(stage, actors, run)
                a, b, c, _ = [await given(player) for player in actors.clients]
                stage.later(1.0)
                await actors.clients[0].report(a)
                await actors.clients[1].report(b)
                await actors.clients[2].fail(c)
                stage.later(15.0)
                found = (await stage.call("GET", f"/runs/{run}/timeline"))["clients"]
                assert [s["state"] for s in found[3]["spans"]] == ["training"]
                stage.later(10.0)
                await stage.tick()
                found = (await stage.call("GET", f"/runs/{run}/timeline"))["clients"]
                assert [s["state"] for s in found[3]["spans"]] == ["late"]
                assert found[3]["spans"][0]["to"] - found[3]["spans"][0]["from"] == 26.0
                assert {s["state"] for s in found[2]["spans"]} == {"dropped"}

        play(scene())

    def test_many_rounds_are_merged(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 2)
                act = stage.later

                def slow(task: dict[str, Any]) -> dict[str, Any]:
                    act(1.0)
                    by = {"server": 0.5, "federated": 0.25}
                    return {"samples": 10, "batches": 1, "loss_sum": 1.0, "seconds": 1.0, "seconds_by": by}

                for player in actors.clients:
                    player.acts["train"] = slow
                run = await submitted(stage, "splitfed_v1", clients=2, rounds=90, evaluate={"every": 1000})
                await actors.play(run, most=2000)
                found = await stage.call("GET", f"/runs/{run}/timeline")
                for client in found["clients"]:
                    spans = client["spans"]
                    assert len(spans) <= 400
                    assert max(s["tasks"] for s in spans) == 3
                    for state, share in (("training", 0.25), ("waiting", 0.5), ("sending", 0.25)):
                        seconds = sum(
                            s["to"] - s["from"] for s in spans if s["state"] == state and s["kind"] == "train"
                        )
                        assert seconds == pytest.approx(90 * share, abs=1e-3)
                    assert all(before["to"] <= after["from"] + 1e-6 for before, after in pairwise(spans))

        play(scene())


class TestEvents:
    def test_tasks_say_when_they_begin_and_end(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 2)
                run = await submitted(stage, "splitfed_v1", clients=2, rounds=1)
                await training(stage, actors, run)
                player = actors.clients[1]
                task = await given(player)
                assert await player.ask() == task  # again: that is no second beginning
                stage.later(3.0)
                await player.report(task)
                told = [e for e in await stage.events(run) if e["client"] == player.id and e["round"] == 1]
                began, done = (next(e for e in told if e["kind"] == kind) for kind in ("task.started", "task.done"))
                assert began["data"] == {"kind": "train", "number": 1, "target": f"client:{player.id}"}
                assert done["data"] == {
                    **began["data"],
                    "seconds": 3.0,
                    "seconds_by": {"server": 0.5, "federated": 0.25},
                    "samples": 20,
                }
                assert len([e for e in told if e["kind"] == "task.started"]) == 1

        play(scene())

    def test_services_come_and_go(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                await beat(stage, "one")
                await beat(stage, "two")
                stage.later(2.0)
                await beat(stage, "two")
                await stage.tick()
                stage.later(1.0)
                await stage.tick()
                await stage.tick()
                stage.later(1.0)
                await beat(stage, "one")
                found = [(e["kind"], e["data"]["id"]) for e in await stage.events() if e["kind"].startswith("service.")]
                assert found == [
                    ("service.joined", "one"),
                    ("service.joined", "two"),
                    ("service.lost", "one"),
                    ("service.joined", "one"),
                ]

        play(scene())

    def test_the_timer_wakes_up_for_a_silent_service(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                await beat(stage, "one")
                due = await stage.app.state.backend.timer.sweep()
                assert due == pytest.approx(stage.clock() + 2.5)

        play(scene())


class TestSystem:
    def test_it_is_seen_at_once(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                began = stage.clock()
                await cast(stage, 2)
                await submitted(stage, "splitfed_v1", clients=5)
                await beat(stage, "one", queue_depth=3)
                stage.later(3.0)
                await beat(stage, "two")
                found = await stage.call("GET", "/system")
                assert (found["started"], found["now"]) == (began, began + 3.0)
                assert found["database"]["bytes"] > 10_000
                assert found["database"]["kind"] in stage.settings.database_url
                assert [(s["id"], s["live"], s["silent"]) for s in found["services"]] == [
                    ("one", False, 3.0),
                    ("two", True, 0.0),
                ]
                assert found["services"][0]["stats"] == {"queue_depth": 3}
                assert found["clients"] == {"connected": 2, "total": 2}
                assert found["runs"] == {"queued": 1}
                assert found["event"] == (await stage.events())[-1]["id"]

        play(scene())


class TestList:
    def test_a_run_says_how_far_it_is(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 2)
                run = await submitted(stage, "splitfed_v1", clients=2, rounds=4, evaluate={"every": 2})
                (fresh,) = (await stage.call("GET", "/runs"))["runs"]
                assert (fresh["progress"], fresh["test_accuracy"], fresh["bytes"], fresh["seconds"]) == (0, None, 0, 0)
                await actors.play(run, until=lambda r: r["round"] == 4)
                (found,) = (await stage.call("GET", "/runs"))["runs"]
                assert found["progress"] == 0.75
                assert found["test_accuracy"] == 0.9  # of round 2
                assert found["bytes"] == 3 * 2 * 150
                await actors.play(run)
                (found,) = (await stage.call("GET", "/runs"))["runs"]
                assert found["progress"] == 1.0
                assert found["evaluation"] is None
                assert (await stage.run(run))["evaluation"]["confusion"] == [[45, 5], [5, 45]]

        play(scene())

    def test_it_is_sorted_filtered_and_paged(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 2)
                ended = await submitted(stage, "splitfed_v1", clients=2, rounds=1, name="aLpha")
                await actors.play(ended)
                stage.later(1.0)
                waiting = [await submitted(stage, "fedavg", clients=9, name="beta_100") for _ in range(3)]

                async def ids(query: str) -> list[str]:
                    return [run["id"] for run in (await stage.call("GET", f"/runs?{query}"))["runs"]]

                assert await ids("state=done&state=failed") == [ended]
                assert await ids("algorithm=splitfed_v1") == [ended]
                assert await ids("text=alpHA") == [ended]
                assert set(await ids("text=beta_100")) == set(waiting)
                assert await ids("text=bet__100") == []
                assert len(await ids("text=digits")) == 4
                assert (await ids("sort=accuracy"))[0] == ended
                assert (await ids("sort=accuracy&order=asc"))[-1] == ended
                assert (await ids("sort=bytes"))[0] == (await ids("sort=progress"))[0] == ended
                assert await ids("sort=id&order=asc") == sorted([ended, *waiting])
                assert (await ids("order=asc"))[0] == ended
                for sort in ("created", "id", "state", "algorithm", "progress", "accuracy", "bytes", "seconds"):
                    for order in ("asc", "desc"):
                        whole, paged, after = await ids(f"sort={sort}&order={order}"), [], ""
                        while len(paged) < 4:
                            page = await stage.call("GET", f"/runs?sort={sort}&order={order}&limit=1{after}")
                            assert page["total"] == 4
                            paged += [run["id"] for run in page["runs"]]
                            after = f"&after={page['next']}"
                        assert paged == whole, sort
                        assert page["next"] is None
                assert (await stage.raw("GET", "/runs?sort=colour")).status_code == 422

        play(scene())


class TestManyClients:
    def test_answers_stay_small(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                run = await synthetic(stage.app.state.backend.database, 40, 60, state="done")
                found = await stage.call("GET", f"/runs/{run}/history?points=20&clients=3")
                assert len(found["rounds"]) == 20
                assert found["total_rounds"] == 60
                lines = {line["round"]: line for line in await stage.call("GET", f"/runs/{run}/metrics")}
                assert found["best_round"] == max(lines, key=lambda n: lines[n]["test_accuracy"])
                for n, number in enumerate(found["rounds"]):
                    spread = sorted(lines[number]["client_accuracy"].values())
                    assert found["bands"]["client_accuracy"]["min"][n] == spread[0]
                    assert found["bands"]["client_accuracy"]["max"][n] == spread[-1]
                    assert found["clients"]["3"]["accuracy"][n] == lines[number]["client_accuracy"].get("3")
                total = sum(line["bytes_up"] for line in lines.values())
                assert found["series"]["total_bytes_up"][-1] == total
                shown = await stage.call("GET", f"/runs/{run}/timeline?first=5&count=30")
                assert [client["number"] for client in shown["clients"]] == list(range(5, 35))
                assert all(len(client["spans"]) <= 400 for client in shown["clients"])
                busy = {c["number"]: _seconds(c["spans"], "training") for c in shown["clients"]}
                assert max(busy, key=lambda n: busy[n]) == SLOW
                one = await stage.call("GET", f"/runs/{run}/timeline?first={SLOW}&count=1")
                assert {"training", "waiting", "sending", "idle", "dropped"} == {
                    span["state"] for span in one["clients"][0]["spans"]
                }
                (listed,) = (await stage.call("GET", "/runs"))["runs"]
                assert listed["bytes"] == sum(line["bytes_up"] + line["bytes_down"] for line in lines.values())
                assert listed["progress"] == 1.0

        play(scene())

    def test_events_do_not_grow_with_the_clients(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                body = {"name": "x", "key": None}
                actors = await cast(stage, 0)
                for n in range(25):
                    key = (await stage.call("POST", "/clients", {**body, "name": f"c{n:02d}"}, token=ENROL))["key"]
                    actors.clients.append(Player(stage, f"c{n:02d}", key))
                run = await submitted(stage, "splitfed_v1", clients=25, rounds=1)
                await actors.play(run)
                events = await stage.events(run)
                assert max(len(str(event["data"])) for event in events) < 1500
                (said,) = [event["data"] for event in events if event["kind"] == "round"]
                (line,) = await stage.call("GET", f"/runs/{run}/metrics")
                assert len(line["client_loss"]) == 25
                assert said == {key: value for key, value in line.items() if not key.startswith("client_")}

        play(scene())


def _seconds(spans: list[dict[str, Any]], state: str) -> float:
    return sum(span["to"] - span["from"] for span in spans if span["state"] == state)
