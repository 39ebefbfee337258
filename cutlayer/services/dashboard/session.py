"""Who is signed in: tokens stay in this process's memory, browsers get a random cookie that says nothing."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

IDLE = 12 * 3600.0
"""Seconds without a request after which a session ends."""
MOST = 1000
"""Sessions that are kept; the one that was idle longest ends first."""
ATTEMPTS, ATTEMPTS_WITHIN = 10, 60.0
"""How many wrong tokens an address may show in how many seconds."""

Role = Literal["operator", "viewer"]


@dataclass(eq=False)
class Session:
    """Somebody who showed a token.  ``ended`` is called once, when the session is over."""

    token: str = field(repr=False)
    role: Role
    used: float
    public: bool = False
    """Nobody signed in: the dashboard has a viewer's token of its own."""
    alive: bool = True
    ended: set[Callable[[], None]] = field(default_factory=set, repr=False)

    @property
    def acts(self) -> bool:
        """Whether buttons that change something are shown; whether they work is the backend's to decide."""
        return self.role == "operator"


class Sessions:
    """The sessions of this process, by cookie."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._found)

    def open(self, token: str, role: Role) -> tuple[str, Session]:
        """Begin a session and return its cookie."""
        cookie = secrets.token_urlsafe(32)
        session = self._found[cookie] = Session(token, role, self._clock())
        while len(self._found) > MOST:
            self.close(next(iter(self._found)))
        return cookie, session

    def find(self, cookie: str) -> Session | None:
        """Return the session of a cookie, which was used now; None if there is none (any more)."""
        session = self._found.get(cookie)
        if session is None:
            return None
        now = self._clock()
        if now - session.used > IDLE:
            self.close(cookie)
            return None
        session.used = now
        self._found.move_to_end(cookie)
        return session

    def tokens(self) -> set[str]:
        """Return the tokens that are signed in."""
        return {session.token for session in self._found.values()}

    def sweep(self) -> None:
        """End the sessions that were idle too long."""
        now = self._clock()
        for cookie in [cookie for cookie, session in self._found.items() if now - session.used > IDLE]:
            self.close(cookie)

    def close(self, cookie: str) -> None:
        """End a session; its pages are told."""
        session = self._found.pop(cookie, None)
        if session is not None:
            _end(session)

    def refuse(self, token: str) -> None:
        """End all sessions of a token that the backend does not know any more."""
        for cookie in [cookie for cookie, session in self._found.items() if session.token == token]:
            self.close(cookie)


def _end(session: Session) -> None:
    session.alive = False
    for tell in list(session.ended):
        tell()
    session.ended.clear()


class Attempts:
    """Wrong tokens by address: guessing is slow."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: OrderedDict[str, list[float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Return the seconds after which this address may try again, 0 for now."""
        times = self._recent(address)
        return 0.0 if len(times) < ATTEMPTS else times[0] + ATTEMPTS_WITHIN - self._clock()

    def note(self, address: str) -> None:
        """Remember that this address showed a token that is none."""
        self._failed[address] = [*self._recent(address), self._clock()][-ATTEMPTS:]
        self._failed.move_to_end(address)
        while len(self._failed) > MOST:
            self._failed.popitem(last=False)

    def _recent(self, address: str) -> list[float]:
        since = self._clock() - ATTEMPTS_WITHIN
        return [at for at in self._failed.get(address, ()) if at > since]
