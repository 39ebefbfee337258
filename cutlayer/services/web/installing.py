"""Put everything that services have in common around an application."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from cutlayer.services.metrics import Metrics
from cutlayer.services.settings import ServerSettings
from cutlayer.services.web.access import Access
from cutlayer.services.web.body import BodyLimit
from cutlayer.services.web.failures import Failures, http_exception
from cutlayer.services.web.headers import SecurityHeaders
from cutlayer.services.web.operations import Ready, operations
from cutlayer.services.web.rates import RateLimit
from cutlayer.services.web.request_id import RequestId
from cutlayer.services.web.tracing import Tracing


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a caller may send: see `BodyLimit` and `RateLimit`."""

    body: int = 1 << 20
    bodies: tuple[tuple[str, int], ...] = ()
    rate: float = 0.0
    burst: int = 400

    @classmethod
    def of(cls, settings: ServerSettings, bodies: Sequence[tuple[str, int]] = ()) -> Limits:
        """Return what the settings say; ``bodies`` are (regular expression of paths, bytes)."""
        return cls(settings.body_limit, tuple(bodies), settings.rate, settings.burst)


def install(
    app: Starlette,
    service: str,
    metrics: Metrics,
    limits: Limits | None = None,
    *,
    ready: Ready | None = None,
    quiet: bool = False,
) -> None:
    """Give a Starlette or FastAPI application, before its first request, everything that services have in common.

    From the outside in: request id, trace, access log and counts, security headers, errors as JSON, rate limit, body
    limit; the routes ``/healthz``, ``/readyz`` and ``/metrics``; and ``app.state.stopping``, an event that is set as
    soon as the process is told to stop, so that long-polls and event streams can end.

    Args:
        app: the application; its routes may be added before or after.
        service: ``backend``, ``split`` or ``fed``.
        metrics: what ``/metrics`` shows.
        limits: of bodies and rates.
        ready: what ``/readyz`` asks.
        quiet: requests are logged at debug level only.
    """
    limits = limits or Limits()
    app.state.service = service
    app.state.stopping = asyncio.Event()
    app.add_exception_handler(HTTPException, http_exception)
    app.router.routes.extend(operations(service, metrics, ready))
    app.user_middleware = [
        Middleware(RequestId),
        Middleware(Tracing, service),
        Middleware(Access, metrics, quiet),
        Middleware(SecurityHeaders),
        Middleware(Failures),
        Middleware(RateLimit, limits.rate, limits.burst),
        Middleware(BodyLimit, limits.body, limits.bodies),
        *app.user_middleware,
    ]
