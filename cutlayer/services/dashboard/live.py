"""What pages look at: kept up to date while anybody looks, at most four times a second."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cutlayer.services.dashboard.charts.timeline import window
from cutlayer.services.dashboard.history import POINTS, SHOWN_AT_ONCE, History
from cutlayer.services.dashboard.source import Away, Source
from cutlayer.services.errors import ServiceError, TooMany, Unavailable
from cutlayer.services.protocol import EventView

log = logging.getLogger(__name__)

GAP = 0.25
"""Seconds between two refreshments."""
LINGER = 20.0
"""Seconds that something is kept after the last page has left it."""
AGAIN = 1.0
"""Seconds after which a refreshment that was refused is tried again."""
ROWS, MOST_ROWS = 100, 1000
"""Clients whose time is asked for at once, and altogether."""
NEWEST = 100
"""Events that a page begins with."""

Changed = Callable[[frozenset[str]], None]


class Feed:
    """Something that pages watch.  ``touch`` says what may have changed, ``refresh`` fetches it, watchers are told."""

    topics: frozenset[str] = frozenset()
    gap = GAP

    def __init__(self, source: Source) -> None:
        self.source = source
        self.error: ServiceError | None = None
        self._watchers: set[Changed] = set()
        self._dirty: set[str] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._fresh = False

    async def refresh(self, topics: frozenset[str]) -> frozenset[str]:
        """Fetch what ``topics`` name and return what has changed."""
        raise NotImplementedError

    def hear(self, event: EventView) -> None:
        """Touch what an event changes."""

    async def ready(self) -> None:
        """Return once everything has been fetched.  Raises Away, or what the backend raised."""
        async with self._lock:
            if not self._fresh:
                await self.refresh(self.topics)
                self._fresh = True

    def watch(self, changed: Changed) -> Callable[[], None]:
        """Tell ``changed`` from now on what has changed; call what is returned to end that."""
        if not self._watchers:
            self.source.heard.add(self.hear)
            self.source.told.add(self._reached)
        self._watchers.add(changed)
        if self._task is None:
            self._task = asyncio.create_task(self._keep(), name=f"{type(self).__name__} is kept up to date")

        def leave() -> None:
            self._watchers.discard(changed)
            if not self._watchers:
                asyncio.get_running_loop().call_later(LINGER, self._rest)

        return leave

    def touch(self, *topics: str) -> None:
        """Say what may have changed."""
        self._dirty.update(topics)
        self._wake.set()

    def _reached(self) -> None:
        if self.source.absence is None:
            self.touch(*self.topics)

    def _rest(self) -> None:
        if not self._watchers and self._task is not None:
            self.source.heard.discard(self.hear)
            self.source.told.discard(self._reached)
            self._task.cancel()
            self._task, self._fresh = None, False

    async def _keep(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            topics, self._dirty = frozenset(self._dirty), set()
            pause = self.gap
            try:
                async with self._lock:
                    found = await self.refresh(topics)
                    self._fresh, self.error = True, None
            except (Away, Unavailable, TooMany) as error:
                log.info("not refreshed: %s", error)
                self._dirty |= topics
                pause = AGAIN
                self._wake.set()
                found = frozenset()
            except ServiceError as error:
                self.error, found = error, frozenset({"error"})
            except Exception:
                log.exception("something that a page looks at could not be refreshed")
                found = frozenset()
            if found:
                for tell in list(self._watchers):
                    with suppress(Exception):
                        tell(found)
            await asyncio.sleep(pause)


class RunFeed(Feed):
    """One run: ``view``, ``history``, the newest events, and where its round is (``phase``)."""

    topics = frozenset({"view", "history", "phase", "events", "system"})

    def __init__(self, source: Source, run: str) -> None:
        super().__init__(source)
        self.run = run
        self.view: dict[str, Any] = {}
        self.history = History()
        self.events: list[dict[str, Any]] = []
        """The newest, the newest first, and all that came since."""
        self.phase: dict[str, Any] = {}
        self.system: dict[str, Any] = {}
        self.wanted: dict[int, int] = {}
        """Clients that pages highlight, and how many pages do."""

    def hear(self, event: EventView) -> None:
        if event.run != self.run:
            if event.kind in ("client.joined", "client.lost", "service.joined", "service.lost"):
                self.touch("view", "system")
            return
        self.events.insert(0, event.model_dump())
        del self.events[500:]
        topics = {"events", "phase"}
        if event.kind == "round":
            topics |= {"history", "view"}
        elif event.kind in ("run.state", "run.submitted", "artifact", "client.dropped", "quorum"):
            topics.add("view")
        if event.kind == "artifact":
            topics.add("artifacts")
        self._step(event.model_dump())
        self.touch(*topics)

    async def refresh(self, topics: frozenset[str]) -> frozenset[str]:
        if "view" in topics:
            self.view = await self.source.get("runs", self.run)
        if "history" in topics:
            await self._continue()
        if "events" in topics and not self.events:
            self.events = await self.source.get("events", "newest", run=self.run, limit=NEWEST)
        if "system" in topics:
            self.system = await self.source.get("system")
        if "phase" in topics and not self.phase:
            found = await self.source.get("events", "newest", run=self.run, kinds="round.state", limit=5)
            for event in reversed(found):
                self._step(event)
        return topics

    def highlight(self, number: int, on: bool) -> None:
        """Fetch a client's series from now on, or no more."""
        count = self.wanted.get(number, 0) + (1 if on else -1)
        self.wanted = {**self.wanted, number: count}
        if count <= 0:
            del self.wanted[number]
        elif number not in self.history.clients:
            self.history = History()
            self.touch("history")

    def clients(self) -> list[int]:
        """The clients whose own series are fetched: all while they are few, else those that are highlighted."""
        members = [m["number"] for m in self.view.get("members", ())]
        if len(members) <= SHOWN_AT_ONCE:
            return members
        return sorted(self.wanted)[:SHOWN_AT_ONCE]

    async def _continue(self) -> None:
        asked = self.clients()
        clients = ",".join(map(str, asked)) or None
        last = self.history.last
        if last and (len(self.history.rounds) > 2 * POINTS or not set(asked) <= set(self.history.clients)):
            last, self.history = 0, History()
        found = await self.source.get(
            "runs", self.run, "history", points=POINTS, clients=clients, after=last or None
        )
        self.history = self.history.followed_by(History.of(found))

    def _step(self, event: dict[str, Any]) -> None:
        """Follow where the round is."""
        kind, data = event["kind"], event["data"]
        if kind == "round.state":
            self.phase = {
                **(self.phase if self.phase.get("round") == event["round"] else {"done": 0}),
                "round": event["round"],
                "state": data["state"],
                "since": event["time"],
            }
        elif kind == "task.done" and data.get("kind") == "train" and event["round"] == self.phase.get("round"):
            self.phase = {**self.phase, "done": self.phase.get("done", 0) + 1}


class TimelineFeed(Feed):
    """What the clients of a run did in its last ``rounds`` rounds (0: in all of it)."""

    topics = frozenset({"timeline"})

    def __init__(self, source: Source, run: RunFeed, rounds: int) -> None:
        super().__init__(source)
        self.run, self.rounds = run, rounds
        self.begin = self.end = 0.0
        self.clients: list[dict[str, Any]] = []
        self.total = 0

    @property
    def gap(self) -> float:  # type: ignore[override]
        """Seconds between two looks: the more clients, the longer."""
        return 0.5 + self.total / 100

    def hear(self, event: EventView) -> None:
        if event.run == self.run.run and event.kind != "progress":
            self.touch("timeline")

    async def refresh(self, topics: frozenset[str]) -> frozenset[str]:
        view = self.run.view
        begun = view.get("started") or view["created"]
        since = begun
        if self.rounds:
            history, until = self.run.history, view.get("ended") or time.time()
            took = [
                (a or 0.0) + (b or 0.0)
                for a, b in zip(history.column("seconds"), history.column("evaluation_seconds"), strict=True)
            ]
            since = max(begun, until - 1.15 * window(took, self.rounds))
        first = await self._page(since, 0)
        self.total = first["total"]
        others = range(ROWS, min(self.total, MOST_ROWS), ROWS)
        pages = [first, *await asyncio.gather(*(self._page(since, n) for n in others))]
        self.begin, self.end = first["from"], max(page["to"] for page in pages)
        self.clients = [client for page in pages for client in page["clients"]]
        if view["state"] == "running" and not view["paused"]:
            asyncio.get_running_loop().call_later(max(0.0, 1.0 - self.gap), self.touch, "timeline")
        return topics

    async def _page(self, since: float, first: int) -> dict[str, Any]:
        found: dict[str, Any] = await self.source.get(
            "runs", self.run.run, "timeline", since=since, first=first, count=ROWS
        )
        return found


class RunsFeed(Feed):
    """The list of runs: the newest page of what is asked for."""

    topics = frozenset({"runs"})
    gap = 0.5

    def __init__(self, source: Source, query: dict[str, Any]) -> None:
        super().__init__(source)
        self.query = query
        self.runs: list[dict[str, Any]] = []
        self.next: str | None = None

    def hear(self, event: EventView) -> None:
        if event.kind in ("run.state", "run.submitted", "round"):
            self.touch("runs")

    async def refresh(self, topics: frozenset[str]) -> frozenset[str]:
        found = await self.source.get("runs", **self.query)
        self.runs, self.next = found["runs"], found.get("next")
        return topics


class SystemFeed(Feed):
    """The services and clients; asked for twice a second, because traffic has no events."""

    topics = frozenset({"system"})
    gap = 0.5

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.system: dict[str, Any] = {}

    async def refresh(self, topics: frozenset[str]) -> frozenset[str]:
        self.system = await self.source.get("system")
        self.touch("system")
        return topics
