"""Wakes whoever waits for something to happen, so that nobody has to look again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

DUE = "due"
"""Something may have to be done earlier than the timer thinks."""
EVENTS = "events"
"""Any event at all."""
ALL = "*"
"""Rings every topic: what was missed while the line was down is not known."""


def tasks_of(target: str) -> str:
    """The topic of new work for ``target``."""
    return f"task:{target}"


def events_of(run: str) -> str:
    """The topic of a run's events."""
    return f"run:{run}"


class Bell:
    """Topics, and those who listen to them.  Belongs to one event loop.

    A listener registers first and looks at the database afterwards, so that nothing falls between the two.
    """

    def __init__(self) -> None:
        self.closed = False
        self._listeners: dict[str, set[asyncio.Event]] = {}

    @contextmanager
    def listening(self, topic: str) -> Iterator[asyncio.Event]:
        """Yield an event that is set whenever ``topic`` rings."""
        rung = asyncio.Event()
        if self.closed:
            rung.set()
        self._listeners.setdefault(topic, set()).add(rung)
        try:
            yield rung
        finally:
            others = self._listeners[topic]
            others.discard(rung)
            if not others:
                del self._listeners[topic]

    def ring(self, topics: Iterable[str]) -> None:
        """Wake all who listen to one of ``topics``."""
        for topic in topics:
            found = self._listeners.values() if topic == ALL else [self._listeners.get(topic, set())]
            for listeners in found:
                for rung in listeners:
                    rung.set()

    def close(self) -> None:
        """Wake everyone for good: the process is about to end."""
        self.closed = True
        self.ring([ALL])


async def heard(rung: asyncio.Event, seconds: float | None) -> bool:
    """Wait until ``rung`` is set, at most ``seconds`` (None: for ever); return whether it was."""
    if seconds is not None and seconds <= 0:
        return rung.is_set()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await rung.wait()
    return rung.is_set()
