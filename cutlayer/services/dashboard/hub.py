"""Everything that one token looks at, shared by all its pages; and the tokens that are looking."""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import httpx

from cutlayer.services.dashboard.live import RunFeed, RunsFeed, SystemFeed, TimelineFeed
from cutlayer.services.dashboard.session import Role, Session, Sessions
from cutlayer.services.dashboard.source import Source
from cutlayer.services.errors import Forbidden, ServiceError, Unauthorized
from cutlayer.version import __version__

F = TypeVar("F")
K = TypeVar("K")

FEEDS = 64
"""Runs that are kept in memory for a token."""
CONNECTIONS = 20


class Hub:
    """The backend as one token sees it, and what its pages watch."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.system = SystemFeed(source)
        self._runs: OrderedDict[str, RunFeed] = OrderedDict()
        self._timelines: OrderedDict[tuple[str, int], TimelineFeed] = OrderedDict()
        self._lists: OrderedDict[str, RunsFeed] = OrderedDict()

    def run(self, run: str) -> RunFeed:
        """Return what pages watch of a run."""
        return _kept(self._runs, run, lambda: RunFeed(self.source, run))

    def timeline(self, run: str, rounds: int) -> TimelineFeed:
        """Return what pages watch of the time of a run's clients."""
        feed = self.run(run)
        return _kept(self._timelines, (run, rounds), lambda: TimelineFeed(self.source, feed, rounds))

    def runs(self, **query: Any) -> RunsFeed:
        """Return the list of runs that a query finds."""
        asked = {key: value for key, value in sorted(query.items()) if value not in (None, "")}
        return _kept(self._lists, repr(asked), lambda: RunsFeed(self.source, asked))


def _kept(found: OrderedDict[K, F], key: K, make: Callable[[], F]) -> F:
    if key not in found:
        found[key] = make()
    found.move_to_end(key)
    while len(found) > FEEDS:
        found.popitem(last=False)
    return found[key]


class Hubs:
    """The hubs of all tokens that are signed in; closed when nobody has the token any more."""

    def __init__(self, backend: str, context: ssl.SSLContext | bool, sessions: Sessions) -> None:
        self._backend, self._context, self._sessions = backend, context, sessions
        self._hubs: dict[str, Hub] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def of(self, session: Session) -> Hub:
        """Return the hub of a session's token."""
        hub = self._hubs.get(session.token)
        if hub is None:
            source = Source(self._client(session.token), lambda: self._sessions.refuse(session.token))
            hub = self._hubs[session.token] = Hub(source)
            source.start()
        return hub

    def keep(self, tokens: set[str]) -> None:
        """Close the hubs of all other tokens."""
        for token in [token for token in self._hubs if token not in tokens]:
            task = asyncio.get_running_loop().create_task(self._hubs.pop(token).source.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """End all streams."""
        self.keep(set())
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def role_of(self, token: str) -> Role:
        """Ask the backend what a token may do.

        Raises Unauthorized if it does not know it, Forbidden if it belongs to a service or a client, Away.
        """
        if not token.isascii() or not token.isprintable() or not token or len(token) > 200:
            raise Unauthorized("this is not a token: one begins with cl_op_ or cl_view_")
        if token.startswith(("cl_svc_", "cl_enrol_", "cl_key_")):
            raise Forbidden("this token belongs to a service or a client; expected an operator's or a viewer's")
        source = Source(self._client(token))
        try:
            await source.get("runs", limit=1)
            try:
                await source.get("audit", limit=1)
            except Forbidden:
                return "viewer"
            return "operator"
        finally:
            await source.close()

    async def reachable(self) -> None:
        """Return if the backend can work.  Raises ServiceError if not."""
        async with self._client(None) as client:
            try:
                answer = await client.get("/readyz", timeout=4.0)
            except httpx.TransportError as error:
                raise ServiceError(f"the backend at {self._backend} does not answer") from error
            if not answer.is_success:
                raise ServiceError(f"the backend at {self._backend} is not ready")

    def _client(self, token: str | None) -> httpx.AsyncClient:
        headers = {"User-Agent": f"cutlayer-dashboard/{__version__}"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return httpx.AsyncClient(
            base_url=self._backend,
            headers=headers,
            verify=self._context,
            limits=httpx.Limits(max_connections=CONNECTIONS),
            trust_env=False,
        )
