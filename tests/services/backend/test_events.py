"""Event streams: in order, from any id on, also from another backend; and the figures they are counted in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cutlayer.services.backend import events
from tests.services.backend.stage import OPERATOR, Stage, cast, enrolled, play, sse, submitted

Database = Callable[[], str]


@asynccontextmanager
async def followed(
    stage: Stage, run: str | None = None, after: int = 0
) -> AsyncIterator[asyncio.Queue[dict[str, Any]]]:
    """Follow a stream; what it says goes into the queue."""
    heard: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    database = stage.app.state.backend.database

    async def listen() -> None:
        async for part in events.stream(database, after, run, False, True):
            for event in sse(part.decode()):
                await heard.put(event)

    listening = asyncio.create_task(listen())
    try:
        yield heard
    finally:
        listening.cancel()


class TestEvents:
    def test_the_newest_come_first_and_lead_back(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 1)
                run = await submitted(stage, "fedavg", clients=1, rounds=1)
                assert (await actors.play(run))["state"] == "done"
                await submitted(stage, "fedavg", clients=9, rounds=1)
                backwards = list(reversed(await stage.events(run)))

                async def newest(query: str) -> Any:
                    answer = await stage.raw("GET", f"/events/newest?{query}")
                    assert answer.status_code == 200, answer.text
                    return answer.json()

                first = await newest(f"run={run}&limit=3")
                assert first == backwards[:3]
                assert await newest(f"run={run}&limit=3&before={first[-1]['id']}") == backwards[3:6]
                states = [e for e in backwards if e["kind"] in ("run.state", "round")]
                assert await newest(f"run={run}&kinds=round,run.state") == states
                assert (await newest("limit=1"))[0]["id"] > backwards[0]["id"]
                assert "audit" not in {e["kind"] for e in await newest("limit=500")}
                assert (await stage.raw("GET", "/events/newest?run=nothing")).status_code == 404
                assert (await stage.raw("GET", "/events/newest?limit=501")).status_code == 422

        play(scene())

    def test_a_stream_goes_on_where_it_was_left(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 1)
                run = await submitted(stage, "fedavg", clients=1, rounds=1)
                assert (await actors.play(run))["state"] == "done"
                everything = await stage.events(run)
                ids = [e["id"] for e in everything]
                assert ids == sorted(set(ids))
                middle = ids[len(ids) // 2]
                rest = [e for e in everything if e["id"] > middle]
                assert await stage.events(run, after=middle) == rest
                path = f"/runs/{run}/events?follow=false"
                answer = await stage.raw("GET", path, headers={"Last-Event-ID": str(middle)})
                assert sse(answer.text) == rest
                assert answer.headers["content-type"].startswith("text/event-stream")
                assert f"id: {rest[0]['id']}\nevent: {rest[0]['kind']}\ndata: " in answer.text
                wrong = await stage.raw("GET", path, headers={"Last-Event-ID": "x"})
                assert wrong.status_code == 422
                assert (await stage.raw("GET", "/runs/nothing/events?follow=false")).status_code == 404

        play(scene())

    def test_who_follows_hears_it_at_once(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path, clock=time.time) as stage, followed(stage) as heard:
                await enrolled(stage, "a")
                event = await asyncio.wait_for(heard.get(), 20)
                assert (event["kind"], event["data"]) == ("client.joined", {"name": "a"})
                run = await submitted(stage, "vanilla", clients=3)
                event = await asyncio.wait_for(heard.get(), 20)
                assert (event["kind"], event["run"]) == ("run.submitted", run)

        play(scene())

    def test_silence_is_filled_with_comments(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def scene() -> None:
            monkeypatch.setattr(events, "COMMENT_EVERY", 0.01)
            async with Stage(f"sqlite+aiosqlite:///{tmp_path}/x.db", tmp_path) as stage:
                stream = events.stream(stage.app.state.backend.database, 99, None, False, True)
                parts = [await anext(stream) for _ in range(3)]
                assert parts[1:] == [b": still here\n\n"] * 2
                await stream.aclose()

        play(scene())

    def test_events_are_counted(self, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(f"sqlite+aiosqlite:///{tmp_path}/x.db", tmp_path) as stage:
                actors = await cast(stage, 1)
                await actors.play(await submitted(stage, "fedavg", clients=1, rounds=2))
                text = (await stage.http.get("/metrics")).text
                assert 'cutlayer_events_total{kind="round"} 2.0' in text
                assert "cutlayer_round_seconds_count 2.0" in text
                assert OPERATOR not in text

        play(scene())
