"""The backend as an application, and as a process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from prometheus_client import Counter

from cutlayer.services import web
from cutlayer.services.backend import api, condensed, tokens
from cutlayer.services.backend.bell import Bell
from cutlayer.services.backend.database import Clock, Database
from cutlayer.services.backend.state import State
from cutlayer.services.backend.tables import EventRow
from cutlayer.services.backend.tasks import Tasks
from cutlayer.services.backend.timer import Timer
from cutlayer.services.errors import Unavailable
from cutlayer.services.metrics import Metrics
from cutlayer.services.settings import BackendSettings
from cutlayer.services.web.validation import explain_validation
from cutlayer.version import __version__

log = logging.getLogger(__name__)

START_SECONDS = 60.0
"""How long a start waits for a database that does not answer yet."""
SWEEP_SECONDS = 5.0
"""How long an end waits for what the timer is doing."""


def create_app(settings: BackendSettings, clock: Clock = time.time) -> FastAPI:
    """Return the backend as an ASGI application; its lifespan opens the database and runs the timer.

    Raises ConfigError when the database's URL or the secret is not usable.
    """
    bell = Bell()
    database = Database(settings.database_url, bell, clock, settings.lost_after)
    timer = Timer(database, settings.lease_seconds)
    tasks = Tasks(database, settings.signing_secret(), settings.lease_seconds)
    metrics = Metrics.make("backend")
    database.watch = _measured(metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await _opened(database)
        await condensed.catch_up(database)
        await tokens.prepare(database, settings)
        working = [asyncio.create_task(timer.run()), asyncio.create_task(_closing(app.state.stopping, bell))]
        try:
            yield
        finally:
            bell.close()
            await asyncio.wait(working[:1], timeout=SWEEP_SECONDS)  # a query that is cancelled halfway may outlive us
            for work in working:
                work.cancel()
                with suppress(asyncio.CancelledError):
                    await work
            await database.close()

    app = FastAPI(
        title="cutlayer backend",
        version=__version__,
        description="The control plane of split federated learning: runs, rounds, clients, tasks, events.",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.backend = State(settings, database, tasks, timer, clock())
    app.include_router(api.router())
    explain_validation(app)
    limits = web.Limits.of(settings, [(r"/v1/runs/[^/]+/artifacts/[^/]+", settings.artifact_limit)])
    web.install(app, "backend", metrics, limits, ready=database.answers)
    return app


def serve(settings: BackendSettings) -> None:
    """Run the backend until SIGTERM or SIGINT.  Raises ConfigError and CutlayerError when it cannot start."""
    web.serve(create_app(settings), settings)


async def _opened(database: Database) -> None:
    """Open the database, which may still be starting itself."""
    end = time.monotonic() + START_SECONDS
    wait = 0.1
    while True:
        try:
            return await database.open()
        except Unavailable:
            if time.monotonic() + wait > end:
                raise
            log.warning("the database does not answer yet")
            await asyncio.sleep(wait)
            wait = min(2 * wait, 5.0)


async def _closing(stopping: asyncio.Event, bell: Bell) -> None:
    """Let long-polls and event streams end as soon as the process is told to stop."""
    await stopping.wait()
    bell.close()


def _measured(metrics: Metrics) -> Callable[[EventRow], None]:
    counted = Counter("cutlayer_events", "Events of runs and clients.", ["kind"], registry=metrics.registry)

    def watch(row: EventRow) -> None:
        counted.labels(row.kind).inc()
        if row.kind == "round":
            metrics.round_seconds.observe(row.data["seconds"])

    return watch
