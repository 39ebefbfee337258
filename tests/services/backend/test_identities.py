"""Tokens, clients, and who may do what."""

from __future__ import annotations

import logging
import os
import re
import secrets
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cutlayer.errors import ConfigError
from cutlayer.services.backend import tokens
from cutlayer.services.backend.app import create_app
from cutlayer.services.settings import BackendSettings
from tests.services.backend.stage import ENROL, OPERATOR, SECRET, SERVICE, Stage, cast, enrolled, play, submitted

Database = Callable[[], str]
RUN, UUID = "vanilla-00000000", "6f1f1d0e-7f3a-4c39-9d1b-0a2f6f3f9f11"

ROUTES: dict[tuple[str, str], set[str]] = {
    ("POST", "/runs"): set(),
    ("GET", "/runs"): {"viewer", "service"},
    ("POST", "/runs/validate"): {"viewer", "service"},
    ("GET", "/runs/{run}"): {"viewer", "service", "client"},
    ("POST", "/runs/{run}/cancel"): set(),
    ("POST", "/runs/{run}/pause"): set(),
    ("POST", "/runs/{run}/resume"): set(),
    ("GET", "/runs/{run}/rounds"): {"viewer", "service"},
    ("GET", "/runs/{run}/rounds/{number}/plan"): {"viewer", "service"},
    ("GET", "/runs/{run}/metrics"): {"viewer", "service"},
    ("GET", "/runs/{run}/tasks"): {"viewer", "service"},
    ("GET", "/runs/{run}/history"): {"viewer", "service"},
    ("GET", "/runs/{run}/timeline"): {"viewer", "service"},
    ("GET", "/system"): {"viewer", "service"},
    ("GET", "/runs/{run}/events"): {"viewer", "service"},
    ("GET", "/runs/{run}/artifacts"): {"viewer", "service"},
    ("GET", "/runs/{run}/artifacts/{name}"): {"viewer", "service"},
    ("PUT", "/runs/{run}/artifacts/{name}"): {"service", "-operator"},
    ("GET", "/events"): {"viewer", "service"},
    ("GET", "/events/newest"): {"viewer", "service"},
    ("GET", "/audit"): set(),
    ("POST", "/tasks/next"): {"service", "client", "-operator"},
    ("POST", "/tasks/{id}/heartbeat"): {"service", "client", "-operator"},
    ("POST", "/tasks/{id}/result"): {"service", "client", "-operator"},
    ("POST", "/tasks/{id}/error"): {"service", "client", "-operator"},
    ("GET", "/clients"): {"viewer", "service"},
    ("POST", "/clients"): {"enrol", "client"},
    ("DELETE", "/clients/{id}"): set(),
    ("POST", "/services/heartbeat"): {"service", "-operator"},
    ("GET", "/services"): {"viewer", "service"},
    ("GET", "/endpoints"): {"viewer", "service", "client"},
    ("POST", "/tokens"): set(),
    ("GET", "/tokens"): set(),
    ("DELETE", "/tokens/{id}"): set(),
}


def sqlite(folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder}/cutlayer.db"


class TestRoles:
    def test_every_route_is_in_the_table(self, tmp_path: Path) -> None:
        settings = BackendSettings(database=sqlite(tmp_path), folder=tmp_path, secret=SECRET)
        paths = create_app(settings).openapi()["paths"]
        found = {(m.upper(), p.removeprefix("/v1")) for p, methods in paths.items() for m in methods if "/v1/" in p}
        assert found == ROUTES.keys()

    def test_a_role_may_do_what_the_table_says(self, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(sqlite(tmp_path), tmp_path) as stage:
                client = await enrolled(stage, "a")
                viewer = await stage.call("POST", "/tokens", {"role": "viewer", "name": "v"})
                who = {"operator": OPERATOR, "viewer": viewer["token"], "service": SERVICE, "enrol": ENROL}
                who["client"] = client.token
                values = {"run": RUN, "id": UUID, "number": "1", "name": "x"}
                for (method, path), roles in ROUTES.items():
                    allowed = {r for r in roles if not r.startswith("-")}
                    allowed |= set() if "-operator" in roles else {"operator"}
                    for role, token in who.items():
                        where = path.format(**values) + ("?follow=false" if path.endswith("events") else "")
                        answer = await stage.raw(method, where, token=token)
                        assert (answer.status_code == 403) == (role not in allowed), (role, method, path, answer.text)

        play(scene())

    def test_without_a_valid_token_nothing_is_done(self, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(sqlite(tmp_path), tmp_path) as stage:
                wrong = ["", "x", OPERATOR + "x", OPERATOR[:-1], "cl_op_", "é" * 10, "x" * 100_000]
                for method, path in ROUTES:
                    where = path.format(run=RUN, id=UUID, number="1", name="x")
                    answer = await stage.raw(method, where, token=None)
                    assert answer.status_code == 401
                    assert answer.headers["www-authenticate"] == "Bearer"
                    assert answer.json()["code"] == "no_token"
                for token in wrong:
                    header = b"Bearer " + token.encode("latin-1")
                    answer = await stage.raw("GET", "/runs", token=None, headers={"Authorization": header})
                    assert answer.status_code == 401
                    assert answer.json()["request_id"]

        play(scene())

    def test_a_client_sees_its_own_runs_only_and_of_them_itself(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 2)
                other = await enrolled(stage, "other")
                run = await submitted(stage, "vanilla", clients=2)
                b = actors.clients[1]
                found = await stage.call("GET", f"/runs/{run}", token=b.token)
                assert found["number"] == 1
                assert [m["name"] for m in found["members"]] == ["b"]
                assert found["clients"] == 2
                answer = await stage.raw("GET", f"/runs/{run}", token=other.token)
                assert answer.status_code == 404
                missing = await stage.raw("GET", "/runs/nothing-00000000", token=other.token)
                assert answer.json()["error"].replace(run, "") == missing.json()["error"].replace(
                    "nothing-00000000", ""
                )

        play(scene())


class TestTokens:
    def test_tokens_are_made_used_listed_and_revoked(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                made = await stage.call("POST", "/tokens", {"role": "viewer", "name": "board"})
                assert re.fullmatch(r"cl_view_[A-Za-z0-9_-]{43}", made["token"])
                assert (await stage.raw("GET", "/runs", token=made["token"])).status_code == 200
                listed = await stage.call("GET", "/tokens")
                assert {t["role"] for t in listed} == {"operator", "service", "enrol", "viewer"}
                assert made["token"] not in str(listed)
                for _ in range(2):
                    await stage.call("DELETE", f"/tokens/{made['id']}")
                assert (await stage.raw("GET", "/runs", token=made["token"])).status_code == 401
                assert made["id"] not in str(await stage.call("GET", "/tokens"))

        play(scene())

    def test_a_token_may_end(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                made = await stage.call("POST", "/tokens", {"role": "viewer", "name": "guest", "seconds": 60})
                assert (await stage.raw("GET", "/runs", token=made["token"])).status_code == 200
                stage.later(60.0)
                assert (await stage.raw("GET", "/runs", token=made["token"])).status_code == 401

        play(scene())

    def test_the_last_operator_stays(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                (first,) = [t for t in await stage.call("GET", "/tokens") if t["role"] == "operator"]
                answer = await stage.raw("DELETE", f"/tokens/{first['id']}")
                assert answer.status_code == 409
                made = await stage.call("POST", "/tokens", {"role": "operator", "name": "second"})
                await stage.call("DELETE", f"/tokens/{first['id']}", token=made["token"])
                await stage.restart()
                assert (await stage.raw("GET", "/runs")).status_code == 401, "revoked for good, though settings name it"

        play(scene())

    def test_only_hashes_are_kept(self, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(sqlite(tmp_path), tmp_path) as stage:
                client = await enrolled(stage, "a")
                made = await stage.call("POST", "/tokens", {"role": "viewer", "name": "v"})
                return_tokens.extend([client.token, made["token"], OPERATOR])

        return_tokens: list[str] = []
        play(scene())
        with sqlite3.connect(tmp_path / "cutlayer.db") as connection:
            dump = "\n".join(connection.iterdump())
        connection.close()
        files = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
        for token in return_tokens:
            assert token not in dump
            assert token.encode() not in files
            assert tokens.hashed(token) in dump

    def test_the_first_operator_token_is_made_once(self, database: Database, tmp_path: Path) -> None:
        settings = BackendSettings(database=database(), folder=tmp_path, secret=SECRET)

        async def start() -> str:
            app = create_app(settings)
            async with app.router.lifespan_context(app), app.state.backend.database.read() as session:
                token = tokens.operator_file(settings).read_text().strip()
                assert await tokens.find(session, token, 0.0)
                return_token.append(token)
            return token

        return_token: list[str] = []

        async def scene() -> None:
            assert await start() == await start()

        play(scene())
        path = tokens.operator_file(settings)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert re.fullmatch(r"cl_op_[A-Za-z0-9_-]{43}", return_token[0])

    def test_a_token_of_another_role_is_refused_at_the_start(self, tmp_path: Path) -> None:
        settings = BackendSettings(database=sqlite(tmp_path), folder=tmp_path, secret=SECRET, operator_token=SERVICE)

        async def scene() -> None:
            app = create_app(settings)
            with pytest.raises(ConfigError, match="the first operator token must be cl_op_"):
                async with app.router.lifespan_context(app):
                    pass
            await app.state.backend.database.close()

        play(scene())


class TestClients:
    def test_a_name_is_one_client(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                client = await enrolled(stage, "hospital", site="north")
                assert re.fullmatch(r"cl_key_[A-Za-z0-9_-]{43}", client.token)
                answer = await stage.raw("POST", "/clients", {"name": "hospital"}, token=ENROL)
                assert answer.status_code == 409
                assert answer.json()["code"] == "name_taken"
                body = {"name": "hospital", "capabilities": {"labels": {"site": "south"}}}
                for token, keys in ((client.token, {}), (ENROL, {"key": client.token})):
                    again = await stage.call("POST", "/clients", {**body, **keys}, token=token)
                    assert again["client_id"] == client.id
                (listed,) = await stage.call("GET", "/clients")
                assert listed["capabilities"]["labels"] == {"site": "south"}
                assert listed["connected"]
                other = await enrolled(stage, "other")
                answer = await stage.raw("POST", "/clients", {"name": "hospital"}, token=other.token)
                assert answer.status_code == 409
                answer = await stage.raw("POST", "/clients", {"name": "third"}, token=other.token)
                assert answer.status_code == 403

        play(scene())

    def test_a_lost_answer_loses_nothing(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                body = {"name": "hospital", "key": "cl_key_" + secrets.token_urlsafe(32)}
                first = await stage.call("POST", "/clients", body, token=ENROL)
                assert first == await stage.call("POST", "/clients", body, token=ENROL)
                assert await stage.call("POST", "/tasks/next", {}, token=body["key"]) is None
                taken = await stage.raw("POST", "/clients", {**body, "name": "other"}, token=ENROL)
                assert taken.json()["code"] == "key_taken"
                wrong = await stage.raw("POST", "/clients", {"name": "x", "key": OPERATOR}, token=ENROL)
                assert wrong.status_code == 422
                assert OPERATOR not in wrong.text

        play(scene())

    def test_who_is_revoked_can_do_nothing_and_join_again(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                client = await enrolled(stage, "hospital")
                for _ in range(2):
                    await stage.call("DELETE", f"/clients/{client.id}")
                assert (await stage.raw("POST", "/tasks/next", {}, token=client.token)).status_code == 401
                (listed,) = await stage.call("GET", "/clients")
                assert (listed["revoked"], listed["connected"]) == (True, False)
                old = await stage.raw("POST", "/clients", {"name": "hospital", "key": client.token}, token=ENROL)
                assert old.json()["code"] == "key_taken"
                again = await enrolled(stage, "hospital")
                assert again.id == client.id
                assert again.token != client.token
                assert (await stage.raw("DELETE", f"/clients/{UUID}")).status_code == 404

        play(scene())

    def test_who_is_not_heard_of_is_lost_and_joins_again(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                client = await enrolled(stage, "hospital")
                stage.later(91.0)
                await stage.tick()
                await stage.tick()
                await client.ask()
                await client.ask()
                told = [e["kind"] for e in await stage.events() if e["client"] == client.id]
                assert [k for k in told if k != "audit"] == ["client.joined", "client.lost", "client.joined"]

        play(scene())


def test_every_privileged_act_is_in_the_audit(database: Database, tmp_path: Path) -> None:
    async def scene() -> None:
        async with Stage(database(), tmp_path) as stage:
            made = await stage.call("POST", "/tokens", {"role": "viewer", "name": "v"})
            client = await enrolled(stage, "a")
            run = await submitted(stage, "vanilla", clients=1)
            for act in ("pause", "resume", "cancel"):
                await stage.call("POST", f"/runs/{run}/{act}")
            await stage.call("DELETE", f"/clients/{client.id}")
            await stage.call("DELETE", f"/tokens/{made['id']}")
            audit = await stage.call("GET", "/audit")
            acts = [e["data"]["act"] for e in audit]
            assert acts == [
                "token.first", "token.first", "token.first", "token.make", "client.enrol", "run.submit", "run.pause",
                "run.resume", "run.cancel", "client.revoke", "token.revoke",
            ]  # fmt: skip
            assert all(e["data"]["by"] for e in audit)
            assert await stage.call("GET", f"/audit?after={audit[-2]['id']}") == audit[-1:]
            for secret in (OPERATOR, made["token"], client.token):
                assert secret not in str(audit)
            viewer = await stage.call("POST", "/tokens", {"role": "viewer", "name": "w"})
            seen = await stage.raw("GET", "/events?follow=false", token=viewer["token"])
            assert '"audit"' not in seen.text

    play(scene())


def test_tokens_are_in_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    seen: list[Any] = []

    async def scene() -> None:
        async with Stage(sqlite(tmp_path), tmp_path) as stage:
            client = await enrolled(stage, "a")
            seen.append(client.token)
            run = await submitted(stage, "vanilla", clients=1)
            task = await client.ask()
            assert task is not None
            seen.append(task["ticket"])
            await stage.raw("GET", f"/runs/{run}?token={OPERATOR}")
            await stage.raw("POST", "/clients", {"name": OPERATOR * 3}, token=ENROL)

    play(scene())
    logged = "\n".join(str(record.__dict__) for record in caplog.records if record.name != "httpx")
    assert "request" in logged
    assert not [n for n, secret in enumerate((OPERATOR, ENROL, SECRET, *seen)) if secret in logged]
