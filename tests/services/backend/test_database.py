"""The database: one schema on both kinds, brought up to date once, away and back again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from cutlayer.errors import ConfigError
from cutlayer.services.backend.bell import Bell
from cutlayer.services.backend.database import Database as Opened
from cutlayer.services.backend.database import _parcels
from cutlayer.services.backend.tables import Table
from cutlayer.services.errors import Unavailable
from tests.services.backend import postgres
from tests.services.backend.stage import Stage, cast, enrolled, given, play, submitted, training

Database = Callable[[], str]


class TestSchema:
    def test_migrations_make_the_tables_that_the_code_has(self, database: Database) -> None:
        async def scene() -> None:
            opened = Opened(database(), Bell())
            await opened.open()
            async with opened.engine.connect() as connection:
                assert await connection.run_sync(self._differences) == []
            await opened.close()

        play(scene())

    def _differences(self, connection: Connection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection), Table.metadata))

    def test_several_may_start_at_once(self, database: Database) -> None:
        async def scene() -> None:
            url = database()
            opened = [Opened(url, Bell()) for _ in range(4)]
            await asyncio.gather(*(each.open() for each in opened))
            await asyncio.gather(*(each.answers() for each in opened))
            for each in opened:
                await each.close()

        play(scene())

    def test_a_newer_database_is_refused(self, database: Database) -> None:
        async def scene() -> None:
            url = database()
            first = Opened(url, Bell())
            await first.open()
            async with first.engine.begin() as connection:
                await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
            await first.close()
            second = Opened(url, Bell())
            with pytest.raises(ConfigError, match="written by another version of cutlayer"):
                await second.open()
            await second.close()

        play(scene())

    @pytest.mark.parametrize(
        "url",
        ["nothing", "mysql://me:hunter2@host/x", "sqlite:///x.db", "sqlite+aiosqlite://", "postgresql+psycopg://h/x"],
    )
    def test_other_databases_are_refused(self, url: str) -> None:
        with pytest.raises(ConfigError, match="the database must be like sqlite") as caught:
            Opened(url, Bell())
        assert "hunter2" not in str(caught.value)


class TestTransactions:
    def test_what_fails_leaves_nothing_behind(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                opened = stage.app.state.backend.database
                before = await stage.events()

                async def half() -> None:
                    async with opened.write() as unit:
                        unit.tell("half", {})
                        raise ZeroDivisionError

                with pytest.raises(ZeroDivisionError):
                    await half()
                assert await stage.events() == before

        play(scene())

    def test_writers_do_not_disturb_each_other(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                await asyncio.gather(*(enrolled(stage, f"c{n}") for n in range(30)))
                events = await stage.events()
                assert [e["id"] for e in events] == sorted(e["id"] for e in events)
                assert len([e for e in events if e["kind"] == "client.joined"]) == 30

        play(scene())

    def test_the_same_name_at_once_is_one_client(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                token = "cl_key_" + "k" * 43
                body = {"name": "same", "key": token}
                enrol = stage.settings.first_tokens()["enrol"]
                found = await asyncio.gather(*(stage.call("POST", "/clients", body, token=enrol) for _ in range(8)))
                assert len({f["client_id"] for f in found}) == 1

        play(scene())


def test_calls_fit_into_notifications() -> None:
    names = {f"run:{'x' * 100}-{n}" for n in range(500)}
    parcels = _parcels(names)
    assert {name for parcel in parcels for name in parcel.split("\n")} == names
    assert max(map(len, parcels)) < 8000


def test_a_postgresql_that_is_away_is_waited_for(tmp_path: Path) -> None:
    if postgres.binaries() is None:
        pytest.skip("PostgreSQL is not installed (initdb and pg_ctl were looked for)")

    async def scene(server: postgres.Server) -> None:
        async with Stage(server.database(), tmp_path, clock=time.time) as stage:
            actors = await cast(stage, 2)
            run = await submitted(stage, "vanilla", clients=2, rounds=1)
            await training(stage, actors, run)
            task = await given(actors.clients[0])
            waiting = asyncio.create_task(stage.raw("POST", "/tasks/next", {"wait": 30}, token=actors.clients[1].token))
            await asyncio.sleep(0.2)
            await asyncio.to_thread(server.stop)
            for path in (f"/runs/{run}", "/clients"):
                answer = await stage.raw("GET", path)
                assert answer.status_code == 503
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.json()["code"] == "database"
            assert (await actors.clients[0].report(task)).status_code == 503
            assert (await stage.http.get("/readyz")).status_code == 503
            assert (await stage.http.get("/healthz")).status_code == 200
            await asyncio.to_thread(server.start)
            while (await actors.clients[0].report(task)).status_code == 503:
                await asyncio.sleep(0.1)
            woken = await asyncio.wait_for(waiting, 40)
            assert woken.status_code in (200, 503), "handed out, or told to come again"
            assert (await actors.play(run))["state"] == "done"

    with postgres.server() as server:
        play(scene(server))


def test_a_start_waits_for_its_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if postgres.binaries() is None:
        pytest.skip("PostgreSQL is not installed (initdb and pg_ctl were looked for)")

    async def scene(server: postgres.Server) -> None:
        url = server.database()
        await asyncio.to_thread(server.stop)
        stage = Stage(url, tmp_path, clock=time.time)
        starting = asyncio.create_task(stage.__aenter__())
        await asyncio.sleep(0.3)
        assert not starting.done()
        await asyncio.to_thread(server.start)
        await asyncio.wait_for(starting, 40)
        assert await stage.call("GET", "/clients") == []
        await stage.__aexit__()
        await asyncio.to_thread(server.stop)
        monkeypatch.setattr("cutlayer.services.backend.app.START_SECONDS", 0.0)
        gone = Stage(url, tmp_path)
        with pytest.raises(Unavailable):
            await gone.__aenter__()
        await gone.app.state.backend.database.close()
        await asyncio.to_thread(server.start)

    with postgres.server() as server:
        play(scene(server))
