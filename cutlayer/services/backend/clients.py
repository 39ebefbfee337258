"""The registry of clients: who they are, what they can do, and whether they are there."""

from __future__ import annotations

from uuid import uuid4

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from cutlayer.services.backend import tokens
from cutlayer.services.backend.database import Database, Unit
from cutlayer.services.backend.tables import ClientRow, TokenRow
from cutlayer.services.backend.timer import disturb
from cutlayer.services.backend.tokens import Who
from cutlayer.services.errors import Conflict, Forbidden, NotFound
from cutlayer.services.protocol import Enrol, Enrolled

TOUCH_EVERY = 5.0
"""Seconds for which a sign of life is not written again."""


async def seen(database: Database, who: Who) -> None:
    """Note a sign of life of a client; one that was away has joined again."""
    recent = database.clock() - min(TOUCH_EVERY, database.lost_after / 3)
    if who.last_seen is not None and who.last_seen > recent:
        return
    async with database.write() as unit:
        here = (ClientRow.id == who.client, ClientRow.revoked.is_(None))
        row = await database.lock(unit, select(ClientRow).where(*here))
        if row is not None:
            await _here(unit, row)


async def enrol(database: Database, who: Who, request: Enrol) -> Enrolled:
    """Register a client, or take its new capabilities.

    Raises Conflict when the name is another's, and Forbidden when a client's key is used under another name.
    """
    try:
        async with database.write() as unit:
            return await _enrol(database, unit, who, request)
    except IntegrityError:
        async with database.write() as unit:  # another request took the name meanwhile
            return await _enrol(database, unit, who, request)


async def revoke(database: Database, unit: Unit, client: str) -> None:
    """Take a client's key away; it counts as away from now on.  Raises NotFound."""
    row = await database.lock(unit, select(ClientRow).where(ClientRow.id == client))
    if row is None:
        raise NotFound(f"there is no client {client}")
    if row.revoked is not None:
        return
    row.revoked, row.connected = unit.now, False
    await _forget_keys(unit, client)
    unit.tell("client.lost", {"name": row.name, "revoked": True}, client=client)
    await disturb(unit, client)


async def _enrol(database: Database, unit: Unit, who: Who, request: Enrol) -> Enrolled:
    row = await database.lock(unit, select(ClientRow).where(ClientRow.name == request.name))
    owner = who.client
    if row is not None and request.key is not None:
        holder = await tokens.find(unit.session, request.key, unit.now)
        owner = holder.client if holder is not None else owner
    if row is not None and row.revoked is None:
        if owner != row.id:
            raise Conflict(
                f"a client named {request.name!r} is enrolled already: give its key, choose another name, or have an "
                "operator revoke it",
                code="name_taken",
            )
        row.capabilities = request.capabilities.model_dump(mode="json")
        await _here(unit, row, changed=True)
        return Enrolled(client_id=row.id, key=request.key)
    if who.role == "client":
        raise Forbidden(f"this key belongs to the client {who.name!r}", code="other_name")
    key = request.key or tokens.make("client")
    if await unit.session.scalar(select(TokenRow.id).where(TokenRow.hash == tokens.hashed(key))):
        if row is None and await unit.session.scalar(select(ClientRow.id).where(ClientRow.name == request.name)):
            return await _enrol(database, unit, who, request)  # the same request, sent twice, was quicker
        raise Conflict("this key is in use, or was revoked: make a new one", code="key_taken")
    if row is None:
        row = ClientRow(id=str(uuid4()), name=request.name, created=unit.now, connected=False, last_seen=unit.now)
        unit.session.add(row)
    row.revoked = None
    row.capabilities = request.capabilities.model_dump(mode="json")
    await unit.session.flush()
    tokens.add(unit, "client", request.name, key, client=row.id)
    unit.tell("audit", {"act": "client.enrol", "by": who.name, "name": row.name}, client=row.id)
    await _here(unit, row, changed=True)
    return Enrolled(client_id=row.id, key=key)


async def _here(unit: Unit, row: ClientRow, *, changed: bool = False) -> None:
    back = not row.connected
    stale = row.last_seen <= unit.seen_since
    row.connected, row.last_seen = True, unit.now
    if back:
        unit.tell("client.joined", {"name": row.name}, client=row.id)
    if back or stale or changed:
        await unit.session.flush()
        await disturb(unit, row.id)


async def _forget_keys(unit: Unit, client: str) -> None:
    await unit.session.execute(
        update(TokenRow)
        .where(TokenRow.client == client, TokenRow.revoked.is_(None))
        .values(revoked=unit.now)
        .execution_options(synchronize_session=False)
    )
