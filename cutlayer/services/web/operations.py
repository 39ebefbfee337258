"""``/healthz``, ``/readyz`` and ``/metrics``: what whoever operates a service asks it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cutlayer.services.errors import ServiceError, Unavailable
from cutlayer.services.metrics import CONTENT_TYPE, Metrics
from cutlayer.services.web.failures import answer_for
from cutlayer.version import __version__

log = logging.getLogger(__name__)

Ready = Callable[[], Awaitable[None]]
"""Returns if the service can work, and raises if not: ServiceError with a sentence that may be shown, or anything."""

READY_WITHIN = 5.0
"""Seconds that a check may take."""


def operations(service: str, metrics: Metrics, ready: Ready | None = None) -> list[Route]:
    """Return the three routes.

    ``/healthz`` says that the process answers, ``/readyz`` that it can work (503 if not), ``/metrics`` is for
    Prometheus.
    """

    async def healthz(request: Request) -> Response:
        return JSONResponse({"status": "ok", "service": service, "version": __version__})

    async def readyz(request: Request) -> Response:
        stopping: asyncio.Event | None = getattr(request.app.state, "stopping", None)
        if stopping is not None and stopping.is_set():
            raise Unavailable("this service is stopping", code="stopping")
        if ready is not None:
            try:
                await asyncio.wait_for(ready(), READY_WITHIN)
            except TimeoutError as error:
                raise Unavailable(f"not ready: no answer within {READY_WITHIN:g} s", code="not_ready") from error
            except ServiceError as error:
                return answer_for(Unavailable(str(error), code="not_ready"))
            except Exception as error:
                log.warning("not ready", exc_info=True)
                raise Unavailable("not ready: what this service needs is away", code="not_ready") from error
        return JSONResponse({"status": "ready", "service": service})

    async def measured(request: Request) -> Response:
        return Response(metrics.text(), media_type=None, headers={"Content-Type": CONTENT_TYPE})

    return [
        Route("/healthz", healthz, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
        Route("/metrics", measured, methods=["GET"]),
    ]
