"""Clients: join, look, revoke."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends
from sqlalchemy import select

from cutlayer.services.backend import clients, runs
from cutlayer.services.backend.api.shared import Backend, Operator, Reader, allow
from cutlayer.services.backend.tables import ClientRow
from cutlayer.services.backend.tokens import Who
from cutlayer.services.protocol import Accepted, Capabilities, ClientView, Enrol, Enrolled

routes = APIRouter(prefix="/clients", tags=["clients"])


@routes.get("")
async def listed(who: Reader, state: Backend) -> list[ClientView]:
    """List all clients by name."""
    seen_since = state.database.clock() - state.database.lost_after
    async with state.database.read() as session:
        rows = (await session.execute(select(ClientRow).order_by(ClientRow.name))).scalars().all()
    return [
        ClientView(
            id=row.id,
            name=row.name,
            connected=row.connected and row.last_seen > seen_since,
            revoked=row.revoked is not None,
            capabilities=Capabilities.model_validate(row.capabilities),
            last_seen=row.last_seen,
            created=row.created,
        )
        for row in rows
    ]


@routes.post("")
async def enrol(request: Enrol, who: Annotated[Who, Depends(allow("enrol", "client"))], state: Backend) -> Enrolled:
    """Join with an enrolment token; or tell new capabilities, with the client's key."""
    return await clients.enrol(state.database, who, request)


@routes.delete("/{id}")
async def revoke(id: UUID, who: Operator, state: Backend) -> Accepted:
    """Take a client's key away."""
    async with state.database.write() as unit:
        await clients.revoke(state.database, unit, str(id))
        runs.note(unit, who, "client.revoke", client=str(id))
    return Accepted()
