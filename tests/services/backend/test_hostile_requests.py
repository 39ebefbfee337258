"""Whatever is sent, the answer is a sentence and a 4xx, nothing is changed, and the service is alive."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from tests.services.backend.live import live
from tests.services.backend.stage import ENROL, OPERATOR, SERVICE, Stage, enrolled, play, submitted

Database = Callable[[], str]
UUID = "6f1f1d0e-7f3a-4c39-9d1b-0a2f6f3f9f11"

ODD: list[Any] = [
    None, True, -1, 0, 1.5, 1e308, 2**31, 2**63, 2**64, 10**400, "", "\x00", "a\x00b", "\ud800", "é" * 5000, "../../x",
    [], [[[]]], {}, {"\x00": 1}, {"a": "\x00"}, {"a": {"b": {"c": "\ud800"}}}, float("nan"), float("inf"), [None],
    {"name": []}, "Infinity", "1e999", -(2**63) - 1,
]  # fmt: skip

BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "/runs": (OPERATOR, {"experiment": {}, "name": "x", "submission": UUID}),
    "/clients": (ENROL, {"name": "x", "capabilities": {"labels": {"a": "b"}, "info": {}}, "key": "cl_key_" + "x" * 43}),
    "/tokens": (OPERATOR, {"role": "viewer", "name": "x", "seconds": 5}),
    "/tasks/next": (SERVICE, {"target": "split", "owner": "x", "kinds": ["train"], "wait": 0, "holding": [UUID]}),
    f"/tasks/{UUID}/heartbeat": (SERVICE, {"progress": {"batches": 1, "of": 2}, "owner": "x"}),
    f"/tasks/{UUID}/result": (SERVICE, {"result": {}, "owner": "x"}),
    f"/tasks/{UUID}/error": (SERVICE, {"message": "x", "retryable": True, "owner": "x"}),
    "/services/heartbeat": (SERVICE, {"kind": "split", "id": "x", "url": "http://h", "stats": {}}),
}


def refused(answer: Any) -> None:
    """The answer is a 4xx, or a success that an odd value is good enough for; never a 5xx."""
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        found = answer.json()
        assert found.keys() == {"error", "code", "request_id"}
        assert found["error"]
        assert "Traceback" not in found["error"]


class TestBodies:
    @pytest.mark.parametrize("path", BODIES, ids=lambda p: p.replace(UUID, "id"))
    def test_odd_values_anywhere(self, path: str, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                token, body = BODIES[path]
                for key in body:
                    for odd in ODD:
                        refused(await self._sent(stage, path, token, {**body, key: odd}))
                        if isinstance(body[key], dict):
                            for inner in [*body[key], "x"]:
                                changed = {**body, key: {**body[key], inner: odd}}
                                refused(await self._sent(stage, path, token, changed))
                for odd in ODD:
                    refused(await self._sent(stage, path, token, odd))
                unknown = await self._sent(stage, path, token, {**body, "unknown": 1})
                assert unknown.status_code == 422
                assert "unknown" in unknown.json()["error"]
                assert (await stage.raw("GET", "/clients")).status_code == 200

        play(scene())

    async def _sent(self, stage: Stage, path: str, token: str, body: Any) -> Any:
        headers = {"Content-Type": "application/json"}
        content = json.dumps(body, ensure_ascii=True).encode()
        return await stage.raw("POST", path, token=token, content=content, headers=headers)

    @pytest.mark.parametrize(
        "content",
        [
            b"", b"{", b"\xff\xfe", b'{"name": "\xc3\x28"}', b"[" * 100_000, b'{"a":' * 50_000, b"1" * 5000, b"null",
            b"{}{}", b'"\\ud800"', b'{"experiment": ' + b"9" * 5000 + b"}", b"\x00", b'{"wait": NaN}',
        ],
    )  # fmt: skip
    def test_bodies_that_are_no_json(self, content: bytes, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(f"sqlite+aiosqlite:///{tmp_path}/x.db", tmp_path) as stage:
                for path, (token, _) in BODIES.items():
                    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
                        headers = {"Content-Type": kind}
                        answer = await stage.raw("POST", path, token=token, content=content, headers=headers)
                        refused(answer)
                        assert answer.status_code >= 400 or "heartbeat" in path

        play(scene())

    def test_results_of_clients_are_checked(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                client = await enrolled(stage, "a")
                run = await submitted(stage, "vanilla", clients=1)
                task = await client.ask()
                assert task is not None
                good = {"samples": 1, "classes": 2, "inputs": [{"shape": [2], "dtype": "float32"}], "test_samples": 1}
                for key in [*good, "class_names", "unknown"]:
                    for odd in ODD:
                        if (key == "class_names" and odd in (None, [])) or (type(odd) is int and 0 <= odd < 2**53):
                            continue
                        answer = await self._sent(
                            stage, f"/tasks/{task['id']}/result", client.token, {"result": {**good, key: odd}}
                        )
                        refused(answer)
                        assert answer.status_code == 422, (key, odd)
                assert (await stage.run(run))["state"] == "preparing"

        play(scene())

    def test_a_thousand_bodies_of_noise(self, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(f"sqlite+aiosqlite:///{tmp_path}/x.db", tmp_path) as stage:
                before = await stage.events()
                noise = random.Random(7)
                paths = [path for path in BODIES if path != "/tasks/next"]
                for _ in range(1000):
                    path = noise.choice(paths)
                    content = noise.randbytes(noise.randrange(300))
                    headers = {"Content-Type": "application/json"}
                    answer = await stage.raw("POST", path, token=BODIES[path][0], content=content, headers=headers)
                    assert 400 <= answer.status_code < 500
                assert await stage.events() == before

        play(scene())


class TestPaths:
    @pytest.mark.parametrize(
        "path",
        [
            "/runs/%00", "/runs/a%00b", "/runs/%ff%fe", "/runs/..", "/runs/%2e%2e%2f", "/runs/" + "x" * 141,
            "/runs/x/rounds/0/plan", "/runs/x/rounds/-1/plan", "/runs/x/rounds/99999999999999999999/plan",
            "/runs/x/rounds/one/plan", "/runs/x/rounds/1/plan", "/runs?limit=0", "/runs?limit=-1", "/runs?limit=1e9",
            "/runs?limit=99999999999999999999", "/runs?after=%00", "/runs?after=nobody", "/runs?state=odd",
            "/runs/x/metrics?after=-1", "/runs/x/metrics?after=9223372036854775808", "/events?after=-1&follow=false",
            "/events?after=99999999999999999999&follow=false", "/audit?after=x", "/audit?limit=501", "/runs/x/tasks",
            "/runs/é", "/runs/x/rounds", "/runs/x/events?follow=false", "/clients/x", "/tokens/x",
        ],
    )  # fmt: skip
    def test_odd_paths_and_pages(self, path: str, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                answer = await stage.raw("GET", path)
                refused(answer)
                assert answer.status_code in (404, 405, 422)

        play(scene())

    def test_odd_ids(self, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(f"sqlite+aiosqlite:///{tmp_path}/x.db", tmp_path) as stage:
                for id in ("x", "%00", "1", UUID, UUID.upper(), UUID + "0", "{" + UUID + "}", "%ff"):
                    for method, path in (("DELETE", "/clients/"), ("DELETE", "/tokens/"), ("POST", "/runs/x/")):
                        answer = await stage.raw(method, path + id)
                        refused(answer)
                        assert answer.status_code in (404, 405, 422)

        play(scene())


def test_what_the_documents_promise(tmp_path: Path) -> None:
    with live(tmp_path, f"sqlite+aiosqlite:///{tmp_path}/cutlayer.db") as backend:
        schema = schemathesis.openapi.from_url(f"{backend.url}/openapi.json")
        operations = [found.ok() for found in schema.get_all_operations()]
        assert len(operations) > 25
        for operation in operations:
            _explore(operation)


def _explore(operation: Any) -> None:
    """Try requests that fit the documents, and such that do not."""
    checks = [not_a_server_error, content_type_conformance, response_schema_conformance]
    modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
    strategy = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in modes))

    @given(case=strategy)
    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    def explore(case: Any) -> None:
        token = SERVICE if case.path.startswith(("/v1/tasks/", "/v1/services/heartbeat")) else OPERATOR
        if case.path.endswith("/events"):
            case.query = {**(case.query or {}), "follow": "false"}
        if case.path == "/v1/tasks/next" and isinstance(case.body, dict):
            case.body.pop("wait", None)
        case.call_and_validate(checks=checks, headers={"Authorization": f"Bearer {token}"})

    explore()
