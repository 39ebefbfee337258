"""The dashboard as an application, and as a process."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, RedirectResponse
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cutlayer.services import web
from cutlayer.services.dashboard import sign_in
from cutlayer.services.dashboard.gate import Gate
from cutlayer.services.dashboard.hub import Hubs
from cutlayer.services.dashboard.session import Attempts, Session, Sessions
from cutlayer.services.errors import NotFound
from cutlayer.services.metrics import Metrics
from cutlayer.services.settings import DashboardSettings
from cutlayer.services.tls import client_context

STATIC = Path(__file__).parent / "static"
KEPT = "public, max-age=31536000, immutable"
SWEEP = 60.0
"""Seconds between looks for sessions that are over."""


def create_app(settings: DashboardSettings) -> FastAPI:
    """Return the dashboard as an ASGI application.

    NiceGUI has its pages in the process, so that there is one dashboard in each.  Raises ConfigError when a token or a
    certificate is not usable.
    """
    sessions, attempts = Sessions(), Attempts()
    token = settings.viewer_token()
    public = None if token is None else Session(token, "viewer", 0.0, public=True)
    context: ssl.SSLContext | bool = True
    if settings.backend.startswith("https:"):
        context = client_context(settings.ca, settings.tls_client_cert, settings.tls_client_key)
    hubs = Hubs(settings.backend, context, sessions)
    version = _version()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(_sweep(sessions, hubs, public))
        try:
            yield
        finally:
            sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await sweeping
            await hubs.close()

    app = FastAPI(title="cutlayer dashboard", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.user_middleware = [Middleware(Gate, sessions, public)]
    web.install(app, "dashboard", Metrics.make("dashboard"), web.Limits.of(settings), ready=hubs.reachable, quiet=True)
    app.router.routes.extend(sign_in.routes(sessions, hubs, attempts, version, public is not None))
    app.router.routes.append(Route("/static/{name}", _static, methods=["GET"]))
    app.router.routes.append(Route("/", lambda _: RedirectResponse("/runs", 303), methods=["GET"]))
    from cutlayer.services.dashboard import pages

    pages.install(app, hubs, version)
    return app


def serve(settings: DashboardSettings) -> None:
    """Run the dashboard until SIGTERM or SIGINT.  Raises ConfigError and CutlayerError when it cannot start."""
    web.serve(create_app(settings), settings, websockets=True)


async def _static(request: Request) -> Response:
    found = STATIC / request.path_params["name"]
    if found.parent != STATIC or not found.is_file():
        raise NotFound("there is no such file")
    return FileResponse(found, headers={"Cache-Control": KEPT})


def _version() -> str:
    """Return a word that changes with what browsers may keep."""
    found = hashlib.sha256()
    for file in sorted(STATIC.iterdir()):
        found.update(file.read_bytes())
    return found.hexdigest()[:12]


async def _sweep(sessions: Sessions, hubs: Hubs, public: Session | None) -> None:
    while True:
        await asyncio.sleep(SWEEP)
        sessions.sweep()
        hubs.keep(sessions.tokens() | ({public.token} if public is not None else set()))
