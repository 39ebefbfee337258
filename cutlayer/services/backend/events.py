"""Events: kept in the database, read from any id on, streamed as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from sqlalchemy import select

from cutlayer.services.backend import bell
from cutlayer.services.backend.bell import heard
from cutlayer.services.backend.database import Database
from cutlayer.services.backend.tables import EventRow
from cutlayer.services.errors import Unavailable
from cutlayer.services.protocol import EventView

BATCH = 500
COMMENT_EVERY = 15.0
"""Seconds of silence after which a comment keeps the connection alive."""


async def after(
    database: Database, id: int, *, run: str | None = None, kind: str | None = None, audit: bool = False,
    limit: int = BATCH,
) -> list[EventView]:  # fmt: skip
    """Return the events that follow ``id``, of one run or kind; those of the audit only if asked for."""
    found = select(EventRow).where(EventRow.id > id).order_by(EventRow.id).limit(limit)
    if run is not None:
        found = found.where(EventRow.run == run)
    if kind is not None:
        found = found.where(EventRow.kind == kind)
    if not audit:
        found = found.where(EventRow.kind != "audit")
    async with database.read() as session:
        rows = (await session.execute(found)).scalars().all()
    return [_view(row) for row in rows]


async def newest(
    database: Database, *, run: str | None, kinds: Sequence[str], before: int | None, limit: int
) -> list[EventView]:
    """Return the last events, the newest first, without the audit; only those of ``kinds`` if any are named."""
    found = select(EventRow).where(EventRow.kind != "audit").order_by(EventRow.id.desc()).limit(limit)
    if run is not None:
        found = found.where(EventRow.run == run)
    if kinds:
        found = found.where(EventRow.kind.in_(kinds))
    if before is not None:
        found = found.where(EventRow.id < before)
    async with database.read() as session:
        return [_view(row) for row in (await session.execute(found)).scalars()]


async def stream(database: Database, id: int, run: str | None, audit: bool, follow: bool) -> AsyncIterator[bytes]:
    """Yield server-sent events after ``id``: those that are there, and, to ``follow``, those to come.

    Ends when the service stops, or the database goes away; whoever listens comes back with the last id.
    """
    topic = bell.EVENTS if run is None else bell.events_of(run)
    with database.bell.listening(topic) as rung:
        yield b": cutlayer events\n\n"
        while True:
            rung.clear()
            try:
                found = await after(database, id, run=run, audit=audit)
            except Unavailable:
                return
            for event in found:
                id = event.id
                yield f"id: {id}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n".encode()
            if found:
                continue
            if not follow or database.bell.closed:
                return
            if not await heard(rung, COMMENT_EVERY):
                yield b": still here\n\n"


def _view(row: EventRow) -> EventView:
    return EventView(
        id=row.id, time=row.time, kind=row.kind, run=row.run, round=row.round, client=row.client, data=row.data
    )
