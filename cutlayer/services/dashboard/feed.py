"""Something that pages look at, kept up to date while anybody looks, at most four times a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

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
                self._fresh = bool(self._watchers)

    def watch(self, changed: Changed) -> Callable[[], None]:
        """Tell ``changed`` from now on what has changed; call what is returned to end that."""
        if not self._watchers:
            self.source.heard.add(self.hear)
            self.source.told.add(self._reached)
            self.touch(*self.topics)  # what happened between `ready` and now
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
                    self._fresh, self.error = bool(self._watchers), None
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
