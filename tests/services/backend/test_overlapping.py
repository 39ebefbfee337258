"""Asynchronous runs in the backend: passes are handed out as clients are free, and rounds only count them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cutlayer.recipes import get
from cutlayer.services.backend.figures import merged
from cutlayer.services.backend.lifecycle import following
from cutlayer.services.backend.picture import (
    Cancel,
    Create,
    Enter,
    Job,
    Member,
    Move,
    Open,
    Pause,
    Picture,
    Resume,
    Round,
    Terms,
)
from tests.services.backend.stage import Stage, cast, given, play, submitted, training

Database = Callable[[], str]
DONE = {"samples": 10, "loss_sum": 5.0, "bytes": {"updates": 3}, "seconds": 1.0}


def picture(*jobs: Job, away: tuple[int, ...] = (), state: Any = "training", number: int = 1, **keys: Any) -> Picture:
    options: dict[str, Any] = {"recipe": get("splitfed_async"), "rounds": 2, "count": 3, "minimum": 3}
    fraction = keys.pop("fraction", 1.0)
    members = tuple(Member(n, f"id{n}", f"client-{n}", n not in away, 10) for n in range(3))
    return Picture(
        "run", "running", Terms(**options, fraction=fraction), 100.0, members=members,
        round=Round(number, state, (0, 1, 2)), jobs=jobs, **keys,
    )  # fmt: skip


def at_work(*numbers: int, state: Any = "leased", **keys: Any) -> list[Job]:
    return [Job("train", f"client:id{n}", state, n, **keys) for n in numbers]


def handed(steps: list[Any]) -> list[tuple[int, int | None]]:
    return [(step.number, step.round) for step in steps if isinstance(step, Create) and step.kind == "train"]


def test_everybody_is_given_a_pass_and_another_when_it_is_done() -> None:
    assert handed(following(picture())) == [(0, 1), (1, 1), (2, 1)]
    assert following(picture(*at_work(0, 1, 2))) == []
    again = picture(*at_work(0, 2), passed=1, passes={0: 1, 1: 1, 2: 1})
    assert handed(following(again)) == [(1, 2)]


def test_a_round_is_over_after_so_many_passes_whoever_did_them() -> None:
    fast = picture(*at_work(0, 2), passed=3, passes={0: 1, 1: 3, 2: 1})
    assert following(fast) == [Move("closing")]
    second = replace(fast, round=Round(2, "training", (0, 1, 2)))
    assert handed(following(second)) == [(1, 4)]


def test_only_a_fraction_works_at_once_and_another_in_place_of_who_is_away() -> None:
    (first, second) = handed(following(picture(fraction=0.67)))
    assert first != second
    assert len(handed(following(picture(*at_work(0, 1), fraction=0.67)))) == 0
    assert handed(following(picture(*at_work(0, 1), away=(1,), passes={0: 1, 1: 1}, fraction=0.67))) == [(2, 1)]


def test_who_failed_gets_no_more_and_if_all_have_it_waits() -> None:
    two = picture(*at_work(0, state="failed", error="no"), *at_work(1), passed=1, passes={0: 1, 1: 1, 2: 1})
    assert handed(following(two)) == [(2, 2)]
    none = picture(*at_work(0, 1, 2, state="failed", error="no"), passes={0: 1, 1: 1, 2: 1})
    assert following(none) == [Pause("quorum", "all clients failed; client-0: no")]
    assert following(replace(none, cause="quorum")) == []
    assert following(replace(none, cause="quorum", jobs=tuple(at_work(0)))) == [Resume()]


def test_encoders_are_closed_before_the_backbone() -> None:
    closing = picture(*at_work(0), state="closing", passed=3)
    assert [(s.kind, s.target) for s in following(closing) if isinstance(s, Create)] == [("aggregate", "fed")]
    after = picture(*at_work(0), Job("aggregate", "fed", "done"), state="closing", passed=3)
    assert [(s.kind, s.target) for s in following(after) if isinstance(s, Create)] == [("finish", "split")]


def test_at_the_end_nobody_waits_for_passes() -> None:
    more = following(picture(*at_work(0), state="done", passed=3))
    assert more == [Open(2, (0, 1, 2))]
    last = following(picture(*at_work(0), state="done", number=2, passed=6))
    assert last[:2] == [Enter("finishing"), Cancel("train")]


def test_passes_of_one_client_are_added() -> None:
    found = merged([(1, DONE), (0, DONE), (1, {**DONE, "loss_sum": None, "bytes": {"updates": 1, "activations": 2}})])
    assert found[0] == DONE
    assert found[1] == {
        "samples": 20, "loss_sum": 5.0, "bytes": {"updates": 4, "activations": 2}, "seconds": 2.0,
    }  # fmt: skip


class TestOnADatabase:
    def test_a_run_from_its_beginning_to_its_end(self, database: Database, tmp_path: Path) -> None:
        """Client 0 does all the passes of the first round; the others are still in their first."""

        async def scene() -> None:
            async with Stage(database(), tmp_path) as stage:
                actors = await cast(stage, 3)
                run = await submitted(stage, "splitfed_async", clients=3, rounds=2)
                await training(stage, actors, run)
                slow = [await given(player) for player in actors.clients[1:]]
                for passes in (1, 2, 3):
                    task = await given(actors.clients[0])
                    assert (task["kind"], task["round"], task["payload"]["within"]) == ("train", passes, 1)
                    assert (await actors.clients[0].report(task)).status_code == 200
                assert await actors.clients[0].ask(kinds=["train"]) is None, "the round is over"
                assert await actors.fed.work()
                assert await actors.split.work()
                beat = f"/tasks/{slow[0]['id']}/heartbeat"
                answer = await stage.call("POST", beat, {}, token=actors.clients[1].token)
                assert answer == {"cancelled": False, "paused": False, "evaluate": True}
                for player in actors.clients:
                    task = await player.ask(kinds=["evaluate"])
                    assert task is not None
                    await player.report(task)
                assert not (await stage.call("POST", beat, {}, token=actors.clients[1].token))["evaluate"]
                assert await actors.split.work()
                (first, second) = await stage.call("GET", f"/runs/{run}/rounds")
                assert first["finished"] == [0]
                assert second["state"] == "training"
                for player, task in zip(actors.clients[1:], slow, strict=True):
                    stage.later(1.0)
                    assert (await player.report(task)).status_code == 200
                task = await given(actors.clients[1])
                assert (task["round"], task["payload"]["within"]) == (2, 2)
                stage.later(1.0)
                await actors.clients[1].report(task)
                left = await given(actors.clients[0])
                await actors.play(run, without=(0,))
                task = await actors.clients[0].ask(kinds=["evaluate"])
                assert task is not None
                await actors.clients[0].report(task)
                await actors.play(run, without=(0,))
                found = await stage.run(run)
                assert found["state"] == "done"
                lines = await stage.call("GET", f"/runs/{run}/metrics")
                assert [sorted(line["client_samples"]) for line in lines] == [["0"], ["1", "2"]]
                assert (await actors.clients[0].report(left)).status_code == 409

        play(scene())


@pytest.mark.parametrize("fraction", [0.3, 0.5, 1.0])
def test_as_many_work_as_the_engine_lets_work(fraction: float) -> None:
    from cutlayer.roles.coordinator import plan

    together = len(plan(get("splitfed_async"), 0, 1, 3, fraction).clients)
    assert len(handed(following(picture(fraction=fraction)))) == together
