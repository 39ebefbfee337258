"""One log line and one count per request, by route and not by path, so that their number stays small."""

from __future__ import annotations

import logging
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cutlayer.services.metrics import Metrics
from cutlayer.services.web import callers
from cutlayer.services.web.rates import FREE

log = logging.getLogger("cutlayer.access")

LONGEST_PATH = 256
"""Characters of a path that are logged."""

OFTEN = FREE | {"/v1/services/heartbeat"}
"""Paths that every service asks for again and again: a line for each would hide all others."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Access:
    """Logs and counts requests.  Paths are logged without their query, which may say anything.

    Args:
        app: what is watched.
        metrics: where requests are counted.
        quiet: log at debug level; for a data plane with hundreds of requests per second.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, quiet: bool = False) -> None:
        self.app = app
        self.metrics = metrics
        self.level = logging.DEBUG if quiet else logging.INFO

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        callers.prepare(scope)
        start = perf_counter()
        status = 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            self._note(scope, status, perf_counter() - start)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.metrics.requests.labels(route, method, str(status or 499)).inc()
        self.metrics.request_seconds.labels(route).observe(seconds)
        level = logging.DEBUG if scope["path"] in OFTEN else self.level
        if status >= 500:
            level = logging.WARNING
        if log.isEnabledFor(level):
            about = {
                "method": method,
                "path": scope["path"][:LONGEST_PATH],
                "status": status or 499,
                "milliseconds": round(1000 * seconds, 1),
                "caller": callers.caller(scope),
                "address": scope["client"][0] if scope.get("client") else None,
            }
            log.log(level, "request", extra={key: value for key, value in about.items() if value is not None})
