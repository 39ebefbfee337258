"""Split and federated servers announce themselves, and clients are told where they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.services.backend.stage import SERVICE, Stage, enrolled, play

Database = Callable[[], str]


async def beat(stage: Stage, kind: str, id: str, url: str, **stats: Any) -> int:
    body = {"kind": kind, "id": id, "url": url, "stats": stats}
    return int((await stage.call("POST", "/services/heartbeat", body, token=SERVICE))["peers"])


class TestServices:
    def test_replicas_are_counted_while_they_live(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                client = await enrolled(stage, "a")
                assert await beat(stage, "split", "one", "http://127.0.0.1:1") == 1
                assert await beat(stage, "split", "two", "http://127.0.0.1:2", queue=3) == 2
                assert await beat(stage, "fed", "one", "http://127.0.0.1:3") == 1
                found = await stage.call("GET", "/endpoints", token=client.token)
                assert found == {
                    "split": ["http://127.0.0.1:1", "http://127.0.0.1:2"],
                    "fed": ["http://127.0.0.1:3"],
                }
                stage.later(15.0)
                assert await beat(stage, "split", "two", "http://127.0.0.1:4", queue=4) == 2
                stage.later(10.0)
                found = await stage.call("GET", "/endpoints", token=client.token)
                assert found == {"split": ["http://127.0.0.1:4"], "fed": []}
                listed = await stage.call("GET", "/services")
                assert [(s["kind"], s["id"], s["live"]) for s in listed] == [
                    ("fed", "one", False),
                    ("split", "one", False),
                    ("split", "two", True),
                ]
                assert listed[2]["stats"] == {"queue": 4}
                stage.later(100_000.0)
                await beat(stage, "split", "three", "http://127.0.0.1:5")
                assert len(await stage.call("GET", "/services")) == 1

        play(scene())

    def test_what_the_operator_says_counts(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            keys = {"split_urls": ("https://split.example",), "fed_urls": ("https://fed.example",)}
            async with Stage(database(), tmp_path, **keys) as stage:
                await beat(stage, "split", "one", "http://127.0.0.1:1")
                found = await stage.call("GET", "/endpoints")
                assert found == {"split": ["https://split.example"], "fed": ["https://fed.example"]}

        play(scene())
