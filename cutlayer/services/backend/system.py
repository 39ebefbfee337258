"""The whole system at one moment."""

from __future__ import annotations

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from cutlayer.services.backend import services
from cutlayer.services.backend.database import Database
from cutlayer.services.backend.history import last_event
from cutlayer.services.backend.tables import ClientRow, RunRow
from cutlayer.services.observed import SILENT, Beating, ClientCount, DatabaseView, SystemView
from cutlayer.services.protocol import ServiceView
from cutlayer.version import __version__


async def system(database: Database, started: float) -> SystemView:
    """Return how everything is now, as seen by the backend that began at ``started``."""
    now = database.clock()
    async with database.read() as session:
        by_state = await session.execute(select(RunRow.state, func.count().label("runs")).group_by(RunRow.state))
        return SystemView(
            version=__version__,
            started=started,
            now=now,
            database=await _database(session, database.sqlite),
            services=[_beating(each, now) for each in await services.listed(session, now)],
            clients=await _clients(session),
            runs={row.state: row.runs for row in by_state},
            event=await last_event(session),
        )


def _beating(service: ServiceView, now: float) -> Beating:
    silent = max(now - service.last_seen, 0.0)
    return Beating(**{**service.model_dump(), "live": silent < SILENT}, silent=silent)


async def _clients(session: AsyncSession) -> ClientCount:
    here = func.count().filter(ClientRow.connected)
    connected, total = (await session.execute(select(here, func.count()).where(ClientRow.revoked.is_(None)))).one()
    return ClientCount(connected=connected, total=total)


async def _database(session: AsyncSession, sqlite: bool) -> DatabaseView:
    if sqlite:
        pages = await session.scalar(text("PRAGMA page_count"))
        size = await session.scalar(text("PRAGMA page_size"))
        return DatabaseView(kind="sqlite", bytes=(pages or 0) * (size or 0))
    used = await session.scalar(text("SELECT pg_database_size(current_database())"))
    return DatabaseView(kind="postgresql", bytes=used or 0)
