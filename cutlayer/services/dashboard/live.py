"""What pages look at: runs, their clients' time, the list of runs, the system."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from cutlayer.services.dashboard.charts.timeline import window
from cutlayer.services.dashboard.feed import Feed
from cutlayer.services.dashboard.history import POINTS, SHOWN_AT_ONCE, History
from cutlayer.services.dashboard.source import Source
from cutlayer.services.protocol import EventView

ROWS, MOST_ROWS = 100, 1000
"""Clients whose time is asked for at once, and altogether."""
NAMED = 12
"""Clients that the picture of the system names."""
MINUTES = 180.0
"""Seconds of the servers' past that are shown."""
NEWEST, KEPT = 100, 500
"""Events that a page begins with, and that are kept."""


class RunFeed(Feed):
    """One run: ``view``, ``history``, the newest events, and where its round is (``phase``)."""

    topics = frozenset({"view", "history", "phase", "events", "system", "missed"})

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
        del self.events[KEPT:]
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
        await asyncio.gather(self._look(topics), self._events(topics), self._surroundings(topics))
        return topics

    async def _look(self, topics: frozenset[str]) -> None:
        if "view" in topics:
            self.view = await self.source.get("runs", self.run)
        if "history" in topics:
            await self._continue()

    async def _events(self, topics: frozenset[str]) -> None:
        if "missed" in topics:
            found = await self.source.get("events", "newest", run=self.run, limit=NEWEST)
            known = {event["id"]: event for event in [*found, *self.events]}
            self.events = [known[id] for id in sorted(known, reverse=True)][:KEPT]

    async def _surroundings(self, topics: frozenset[str]) -> None:
        if "system" in topics:
            self.system = await self.source.get("system")
        if "missed" in topics:
            found = await self.source.get("events", "newest", run=self.run, kinds="round.state", limit=1)
            known = self.phase.get("round"), self.phase.get("state")
            if found and (found[0]["round"], found[0]["data"]["state"]) != known:
                self._step(found[0])

    def highlight(self, number: int, on: bool) -> None:
        """Fetch a client's series from now on, or no more."""
        count = self.wanted.get(number, 0) + (1 if on else -1)
        self.wanted = {**self.wanted, number: count}
        if count <= 0:
            del self.wanted[number]
        elif number not in self.history.clients:
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
        before = self.history
        if len(before.rounds) > 2 * POINTS or not set(asked) <= set(before.clients):
            before = History()  # all anew: there are too many points, or a client that was not asked for
        found = await self.source.get(
            "runs", self.run, "history", points=POINTS, clients=clients, after=before.last or None
        )
        self.history = before.followed_by(History.of(found))

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
        if self.rounds and self.run.history.last >= self.rounds:
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
        self.clients: list[dict[str, Any]] = []
        """All of them while they are few enough to be named."""
        self.moments: list[tuple[float, dict[str, float]]] = []
        """Steps a second of the servers, for the last minutes."""

    async def refresh(self, topics: frozenset[str]) -> frozenset[str]:
        self.system = await self.source.get("system")
        few = self.system["clients"]["total"] <= NAMED
        self.clients = [c for c in await self.source.get("clients") if not c["revoked"]] if few else []
        self._remember()
        self.touch("system")
        return topics

    def _remember(self) -> None:
        found = {
            service["id"]: float(service["stats"]["steps_per_second"])
            for service in self.system["services"]
            if service["kind"] == "split" and service["live"] and service["stats"].get("steps_per_second") is not None
        }
        now = self.system["now"]
        if not self.moments or now - self.moments[-1][0] >= 1.0:
            self.moments = [*(each for each in self.moments if each[0] > now - MINUTES), (now, found)]
