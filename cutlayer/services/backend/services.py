"""Split and federated servers that say they are alive, and where clients find them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from cutlayer.services.backend import bell
from cutlayer.services.backend.database import Database
from cutlayer.services.backend.tables import ServiceRow
from cutlayer.services.protocol import Endpoints, ServiceHeartbeat, ServiceView

LIVE_SECONDS = 20.0
"""A replica that was silent for longer is not counted."""
KEPT_SECONDS = 86_400.0


async def beat(database: Database, heartbeat: ServiceHeartbeat) -> int:
    """Note that a replica is alive; return how many of its kind are."""
    try:
        return await _beat(database, heartbeat)
    except IntegrityError:  # its first two heartbeats came at once
        return await _beat(database, heartbeat)


async def listed(session: AsyncSession, now: float) -> list[ServiceView]:
    """Return all replicas that were heard of lately."""
    rows = (await session.execute(select(ServiceRow).order_by(ServiceRow.kind, ServiceRow.id))).scalars()
    return [
        ServiceView(
            kind=row.kind,
            id=row.id,
            url=row.url,
            live=row.last_seen > now - LIVE_SECONDS,
            stats=row.stats,
            last_seen=row.last_seen,
        )
        for row in rows
    ]


async def endpoints(session: AsyncSession, now: float, split: Sequence[str], fed: Sequence[str]) -> Endpoints:
    """Return where clients find split and federated servers: as configured, else where live replicas say they are."""
    live = [service for service in await listed(session, now) if service.live]
    return Endpoints(
        split=tuple(split) or tuple(dict.fromkeys(s.url for s in live if s.kind == "split")),
        fed=tuple(fed) or tuple(dict.fromkeys(s.url for s in live if s.kind == "fed")),
    )


async def _beat(database: Database, heartbeat: ServiceHeartbeat) -> int:
    async with database.write() as unit:
        row = await unit.session.get(ServiceRow, (heartbeat.kind, heartbeat.id))
        if row is None:
            await unit.session.execute(delete(ServiceRow).where(ServiceRow.last_seen < unit.now - KEPT_SECONDS))
            row = ServiceRow(kind=heartbeat.kind, id=heartbeat.id, live=False)
            unit.session.add(row)
        if not row.live:
            row.live = True
            unit.tell("service.joined", {"kind": row.kind, "id": row.id, "url": heartbeat.url})
            unit.ring(bell.DUE)
        row.url, row.stats, row.last_seen = heartbeat.url, heartbeat.stats, unit.now
        await unit.session.flush()
        live = select(ServiceRow.id).where(
            ServiceRow.kind == heartbeat.kind, ServiceRow.last_seen > unit.now - LIVE_SECONDS
        )
        return len((await unit.session.execute(live)).all())


async def lose(database: Database, since: float) -> None:
    """Say of every service that was not heard of ``since`` then that it is lost; once, with several backends too."""
    gone = (ServiceRow.live, ServiceRow.last_seen <= since)
    async with database.read() as session:
        found = (await session.execute(select(ServiceRow.kind, ServiceRow.id).where(*gone))).all()
    for kind, id in found:
        async with database.write() as unit:
            which = select(ServiceRow).where(ServiceRow.kind == kind, ServiceRow.id == id, *gone)
            row = await database.lock(unit, which)
            if row is not None:
                row.live = False
                unit.tell("service.lost", {"kind": row.kind, "id": row.id, "url": row.url})
