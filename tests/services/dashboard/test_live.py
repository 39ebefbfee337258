"""What pages watch: events arrive, only what is new is fetched, and a backend that was away is caught up with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from cutlayer.services.dashboard.history import History
from cutlayer.services.dashboard.live import RunFeed
from cutlayer.services.dashboard.source import Away
from cutlayer.services.errors import NotFound
from services.dashboard import figures
from services.dashboard.backend import RUN, Answers, until

Scene = Callable[[Answers, RunFeed, list[frozenset[str]]], Awaitable[None]]


def watched(scene: Scene) -> None:
    """Play a scene with a run that somebody watches."""

    async def play() -> None:
        answers = Answers()
        source = answers.source()
        source.start()
        feed = RunFeed(source, RUN)
        changes: list[frozenset[str]] = []
        try:
            await feed.ready()
            leave = feed.watch(changes.append)
            await until(lambda: source.last is not None and bool(changes))
            changes.clear()
            await scene(answers, feed, changes)
            leave()
        finally:
            await source.close()

    asyncio.run(play())


def test_a_round_that_is_done_arrives_and_nothing_is_fetched_twice() -> None:
    async def scene(answers: Answers, feed: RunFeed, changes: list[frozenset[str]]) -> None:
        assert feed.history.rounds == (1, 2)
        answers.finish_round()
        await until(lambda: feed.history.last == 3)
        assert feed.history == History.of(figures.history(3))
        assert "after=2" in answers.paths("history")[-1]
        await until(lambda: any("history" in topics for topics in changes))

    watched(scene)


def test_many_events_are_few_requests() -> None:
    async def scene(answers: Answers, feed: RunFeed, changes: list[frozenset[str]]) -> None:
        before = len(answers.asked)
        for n in range(200):
            answers.tell("task.done", round=2, data={"kind": "train", "number": n})
        await until(lambda: len(feed.events) >= 200)
        await until(lambda: bool(changes))
        assert len(answers.asked) - before < 5
        assert feed.events[0]["id"] == answers.told[-1]["id"]

    watched(scene)


def test_events_of_other_runs_change_nothing() -> None:
    async def scene(answers: Answers, feed: RunFeed, changes: list[frozenset[str]]) -> None:
        answers.tell("round", run="another", round=9)
        answers.finish_round()
        await until(lambda: feed.history.last == 3)
        assert all(event["run"] == RUN for event in feed.events)

    watched(scene)


def test_a_backend_that_was_away_is_caught_up_with() -> None:
    async def scene(answers: Answers, feed: RunFeed, changes: list[frozenset[str]]) -> None:
        answers.leave()
        await until(lambda: feed.source.absence is not None)
        assert feed.source.absence is not None
        assert "refused" in feed.source.absence.reason
        with pytest.raises(Away):
            await feed.source.get("runs")
        assert feed.history.rounds == (1, 2)
        answers.rounds, answers.away = 6, False
        await until(lambda: feed.source.absence is None)
        await until(lambda: feed.history.last == 6)
        assert feed.history == History.of(figures.history(6))

    watched(scene)


def test_the_stream_goes_on_after_the_last_event() -> None:
    async def scene(answers: Answers, feed: RunFeed, changes: list[frozenset[str]]) -> None:
        answers.tell("progress", round=2)
        await until(lambda: feed.source.last == 8)
        answers.leave()
        await until(lambda: feed.source.absence is not None)
        answers.told.append(figures.event(9, "progress", round=2))
        answers.away = False
        await until(lambda: feed.source.last == 9)
        ids = [event["id"] for event in feed.events]
        assert ids == sorted(set(ids), reverse=True)
        headers = [r.headers["Last-Event-ID"] for r in answers.asked if r.url.path == "/v1/events"]
        assert headers[-1] == "8"

    watched(scene)


def test_a_client_is_fetched_when_it_is_highlighted_among_many() -> None:
    async def scene(answers: Answers, feed: RunFeed, changes: list[frozenset[str]]) -> None:
        answers.view = figures.view(members=figures.members(100))
        feed.touch("view")
        await until(lambda: len(feed.view["members"]) == 100)
        feed.highlight(42, True)
        await until(lambda: 42 in feed.history.clients)
        assert "clients=42" in answers.paths("history")[-1]
        assert feed.clients() == [42]
        feed.highlight(42, False)
        assert feed.clients() == []

    watched(scene)


def test_the_phase_of_the_round_follows_its_events() -> None:
    async def scene(answers: Answers, feed: RunFeed, changes: list[frozenset[str]]) -> None:
        answers.tell("round.state", round=3, data={"state": "training"})
        answers.tell("task.done", round=3, data={"kind": "train"})
        answers.tell("task.done", round=2, data={"kind": "train"})
        await until(lambda: feed.source.last == 10)
        assert (feed.phase["round"], feed.phase["state"], feed.phase["done"]) == (3, "training", 1)

    watched(scene)


def test_what_nobody_watches_is_fetched_anew() -> None:
    async def play() -> None:
        answers = Answers()
        source = answers.source()
        feed = RunFeed(source, RUN)
        await feed.ready()
        answers.finish_round()
        await feed.ready()
        assert feed.history == History.of(figures.history(3))
        assert [event["id"] for event in feed.events] == [8, 7]
        answers.finish_round()  # between the two nobody has listened
        leave = feed.watch(lambda _: None)
        await until(lambda: feed.history.last == 4)
        assert [event["id"] for event in feed.events] == [9, 8, 7]
        leave()
        await source.close()

    asyncio.run(play())


def test_a_run_that_is_not_there() -> None:
    async def play() -> None:
        source = Answers().source()
        with pytest.raises(NotFound):
            await RunFeed(source, "nothing-of-this-name").ready()
        await source.close()

    asyncio.run(play())


def test_a_token_that_is_taken_back_is_told() -> None:
    async def play() -> None:
        answers = Answers()
        refused: list[bool] = []
        source = answers.source(lambda: refused.append(True))
        answers.role = "none"
        source.start()
        await until(lambda: bool(refused))
        await source.close()

    asyncio.run(play())
