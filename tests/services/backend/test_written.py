"""Experiments as text: what is wrong is said with the line and the key where it stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.services.backend.stage import Stage, play

Database = Callable[[], str]

GOOD = """\
# a comment
algorithm: splitfed_v1
clients: {count: 3, quorum: 0.5}
optimizer:
  name: sgd
  lr: 1e-2
rounds: 4
"""
WRONG = [
    ("rounds: 0\n", 1, "rounds"),
    ("seed: 1\n\nround: 3\n", 3, "round"),
    ("clients:\n  count: 3\n  quorums: 1\n", 3, "clients.quorums"),
    ("clients:\n  count: 3\n  quorum: 2\n", 3, "clients.quorum"),
    ("seed: 0\nclients: {count: 2,\n  minimum: 5}\n", 2, "clients"),
    ("# first\nalgorithm: splitfed_v9\n", 2, "algorithm"),
    ("rounds: 2\nalgorithm: mine:recipe\n", 2, "algorithm"),
    ("rounds: 2\nseeds: 3\n", 2, "seeds"),
    ("rounds: 2\nbatch_size: many\n", 2, "batch_size"),
    ("rounds: 2\noptimizer:\n  lr: [\n", 4, None),
    ("rounds: 2\n\tseed: 1\n", 2, None),
    ("a: &x 1\nb: *x\n", 2, None),
    ("rounds: 2\nname: " + "[" * 30 + "]" * 30 + "\n", 2, None),
    ("- rounds\n", None, None),
    ("rounds: .nan\n", None, None),
    ("seed: 2020-01-01\n", None, None),
]


def body(text: str) -> dict[str, Any]:
    return {"yaml": text}


class TestText:
    def test_what_is_right_is_returned_with_its_defaults(self, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(f"sqlite+aiosqlite:///{tmp_path / 'x.db'}", tmp_path) as stage:
                found = (await stage.call("POST", "/runs/validate", body(GOOD)))["experiment"]
                assert found["optimizer"]["client"] == {"name": "sgd", "lr": 0.01}
                assert found["clients"]["count"] == 3
                assert "partition" in found
                assert (await stage.call("GET", "/runs"))["runs"] == []
                run = (await stage.call("POST", "/runs", body(GOOD)))["id"]
                assert (await stage.run(run))["experiment"] == found
                empty = (await stage.call("POST", "/runs/validate", body("")))["experiment"]
                assert empty["algorithm"]["name"]

        play(scene())

    @pytest.mark.parametrize(("text", "line", "key"), WRONG)
    def test_what_is_wrong_is_said_with_its_place(
        self, tmp_path: Path, text: str, line: int | None, key: str | None
    ) -> None:
        async def scene() -> None:
            async with Stage(f"sqlite+aiosqlite:///{tmp_path / 'x.db'}", tmp_path) as stage:
                for path in ("/runs/validate", "/runs"):
                    answer = await stage.raw("POST", path, body(text))
                    found = answer.json()
                    assert answer.status_code == 422
                    assert (found["line"], found["key"]) == (line, key), found
                    assert found["error"]
                    assert found["code"] == "bad_experiment"

        play(scene())

    def test_one_of_both_is_submitted(self, tmp_path: Path) -> None:
        async def scene() -> None:
            async with Stage(f"sqlite+aiosqlite:///{tmp_path / 'x.db'}", tmp_path) as stage:
                for wrong in ({}, {**body(GOOD), "experiment": {}}, body("#" * 60_000)):
                    assert (await stage.raw("POST", "/runs", wrong)).status_code == 422

        play(scene())
