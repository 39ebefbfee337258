"""Rates: a token bucket per known caller, and one per address for all whom nobody knows yet."""

from __future__ import annotations

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from cutlayer.services.errors import TooMany
from cutlayer.services.web.callers import caller

MOST_KEYS = 10_000
FREE = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths that probes ask for; they cost nothing."""


class Buckets:
    """Token buckets by key: ``burst`` requests at once, ``rate`` per second on the average.

    At most ``most`` keys are remembered; the one that was idle longest is forgotten first, and its bucket is full when
    it comes back.
    """

    def __init__(
        self, rate: float, burst: int, *, most: int = MOST_KEYS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate, self.burst, self.most, self.clock = rate, burst, most, clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def take(self, key: str) -> float:
        """Take one request out of the bucket; return 0, or the seconds after which there will be one."""
        now = self.clock()
        level, at = self._levels.pop(key, (float(self.burst), now))
        level = min(float(self.burst), level + (now - at) * self.rate)
        granted = level >= 1
        self._levels[key] = (level - 1 if granted else level, now)
        if len(self._levels) > self.most:
            self._levels.popitem(last=False)
        return 0.0 if granted else (1 - level) / self.rate


class RateLimit:
    """Refuses callers that come too often, with 429 and when to come back.

    A token has a bucket of its own once the application recognised it (`cutlayer.services.web.callers.recognise`);
    before, it shares its address's, so that guessing tokens is limited too.
    """

    def __init__(
        self,
        app: ASGIApp,
        rate: float,
        burst: int,
        *,
        most: int = MOST_KEYS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app = app
        self.buckets = Buckets(rate, burst, most=most, clock=clock)
        self._known: OrderedDict[str, None] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self.buckets.rate <= 0 or scope["path"] in FREE:
            await self.app(scope, receive, send)
            return
        token = _digest(Headers(scope=scope).get("authorization"))
        address = scope["client"][0] if scope.get("client") else "unknown"
        key = token if token is not None and token in self._known else f"address {address}"
        wait = self.buckets.take(key)
        if wait > 0:
            whose = "with this token" if key == token else f"from {address}"
            raise TooMany(
                f"too many requests {whose}, at most {self.buckets.rate:g} a second: come back in {math.ceil(wait)} s",
                retry_after=wait,
            )
        try:
            await self.app(scope, receive, send)
        finally:
            if token is not None and caller(scope) is not None:
                self._remember(token)

    def _remember(self, token: str) -> None:
        self._known[token] = None
        self._known.move_to_end(token)
        if len(self._known) > self.buckets.most:
            self._known.popitem(last=False)


def _digest(authorization: str | None) -> str | None:
    return hashlib.sha256(authorization.encode()).hexdigest() if authorization else None
