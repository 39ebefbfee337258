"""Artifacts: put by servers, read by people, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import yaml

from tests.services.backend.stage import RESULTS, SERVICE, Stage, cast, play, submitted

Database = Callable[[], str]


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


class TestArtifacts:
    def test_what_was_put_comes_back(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                run = await submitted(stage, "vanilla")
                path = f"/runs/{run}/artifacts"
                data = bytes(range(256)) * 20_000
                halves = data[:3_000_000], data[3_000_000:]
                put = await stage.call("PUT", f"{path}/model.safetensors", token=SERVICE, content=pieces(*halves))
                assert (put["bytes"], put["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
                again = await stage.call("PUT", f"{path}/model.safetensors", token=SERVICE, content=data)
                assert again == put
                assert put in await stage.call("GET", path)
                answer = await stage.raw("GET", f"{path}/model.safetensors")
                assert answer.content == data
                assert answer.headers["etag"] == f'"{put["sha256"]}"'
                part = await stage.raw("GET", f"{path}/model.safetensors", headers={"Range": "bytes=1-3"})
                assert (part.status_code, part.content) == (206, data[1:4])
                assert [p.name for p in (tmp_path / "artifacts" / run).iterdir()] == [put["sha256"]]

        play(scene())

    def test_a_run_that_has_ended_keeps_its_artifacts_as_they_are(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 1)
                run = await submitted(stage, "fedavg", clients=1, rounds=1)
                path = f"/runs/{run}/artifacts/model.safetensors"
                await stage.call("PUT", path, token=SERVICE, content=b"first")
                await stage.call("PUT", path, token=SERVICE, content=b"second")
                assert (await actors.play(run))["state"] == "done"
                assert (await stage.raw("PUT", path, token=SERVICE, content=b"third")).status_code == 409
                assert (await stage.raw("PUT", path, token=SERVICE, content=b"second")).status_code == 200
                assert (await stage.raw("GET", path)).content == b"second"

        play(scene())

    def test_what_the_rows_know_is_there_as_files(self, database: Database, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 2)
                for number, player in enumerate(actors.clients):
                    counts = [number] * 10
                    player.acts["prepare"] = lambda task, c=counts: {**RESULTS["prepare"](task), "counts": c}  # type: ignore[misc]
                run = await submitted(stage, "file_sync", clients=2, rounds=2)
                path = f"/runs/{run}/artifacts"
                early = [a["name"] for a in await stage.call("GET", path)]
                assert early == ["config.yaml", "metrics.jsonl"]
                assert (await stage.raw("GET", f"{path}/summary.json")).status_code == 404
                view = await actors.play(run)
                found = {}
                for each in await stage.call("GET", path):
                    answer = await stage.raw("GET", f"{path}/{each['name']}")
                    assert hashlib.sha256(answer.content).hexdigest() == each["sha256"]
                    assert answer.headers["etag"] == f'"{each["sha256"]}"'
                    found[each["name"]] = answer.text
                assert sorted(found) == [
                    "config.yaml", "evaluation.json", "metrics.jsonl", "partition.json", "summary.json",
                ]  # fmt: skip
                assert yaml.safe_load(found["config.yaml"])["name"] == run
                assert [json.loads(line)["round"] for line in found["metrics.jsonl"].splitlines()] == [1, 2]
                assert json.loads(found["summary.json"]) == view["summary"]
                assert json.loads(found["evaluation.json"]) == view["evaluation"]
                partition = json.loads(found["partition.json"])
                assert partition["scheme"] == "dirichlet(alpha=0.5)"
                assert partition["classes"] == [str(n) for n in range(10)]
                assert partition["clients"] == [
                    {"name": "0", "client": "a", "counts": [0] * 10, "samples": 30, "test": 10},
                    {"name": "1", "client": "b", "counts": [1] * 10, "samples": 20, "test": 10},
                ]
                put = await stage.raw("PUT", f"{path}/summary.json", token=SERVICE, content=b"{}")
                assert put.status_code == 409

        play(scene())

    @pytest.mark.parametrize("name", ["..", ".hidden", "a%2fb", "a%00", "x" * 129, "%2e%2e%2fx"])
    def test_names_are_plain(self, name: str, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(f"sqlite+aiosqlite:///{tmp_path}/x.db", tmp_path) as stage:
                run = await submitted(stage, "vanilla")
                answer = await stage.raw("PUT", f"/runs/{run}/artifacts/{name}", token=SERVICE, content=b"x")
                assert answer.status_code in (404, 405, 422)
                assert not (tmp_path / "artifacts").exists()

        play(scene())

    def test_there_are_limits(self, tmp_path: Path) -> None:
        async def scene() -> None:
            url = f"sqlite+aiosqlite:///{tmp_path}/x.db"
            async with Stage(url, tmp_path, artifact_limit=5000, body_limit=1000) as stage:
                run = await submitted(stage, "vanilla")
                path = f"/runs/{run}/artifacts/model.safetensors"
                for content in (b"x" * 5001, pieces(b"x" * 3000, b"x" * 3000)):
                    answer = await stage.raw("PUT", path, token=SERVICE, content=content)
                    assert answer.status_code == 413
                assert (await stage.raw("PUT", path, token=SERVICE, content=b"x" * 5000)).status_code == 200
                assert len(list((tmp_path / "artifacts" / run).iterdir())) == 1, "what was refused is gone"
                answer = await stage.raw("POST", "/runs", {"experiment": {"name": "x" * 2000}})
                assert answer.status_code == 413

        play(scene())

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(f"sqlite+aiosqlite:///{tmp_path}/x.db", tmp_path) as stage:
                run = await submitted(stage, "vanilla")
                for path in (f"/runs/{run}/artifacts/x", "/runs/none/artifacts", "/runs/none/artifacts/x"):
                    assert (await stage.raw("GET", path)).status_code == 404
                assert (await stage.raw("PUT", "/runs/none/artifacts/x", token=SERVICE, content=b"")).status_code == 404
                put = await stage.call("PUT", f"/runs/{run}/artifacts/x", token=SERVICE, content=b"x")
                (tmp_path / "artifacts" / run / put["sha256"]).unlink()
                answer = await stage.raw("GET", f"/runs/{run}/artifacts/x")
                assert "all backends must share one" in answer.json()["error"]

        play(scene())
