"""The newest events, for whoever looks back from now."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from cutlayer.services.backend import events, runs
from cutlayer.services.backend.api.shared import Backend, Limit, Reader
from cutlayer.services.protocol import EventView

routes = APIRouter(tags=["events"])


@routes.get("/events/newest")
async def newest(
    who: Reader,
    state: Backend,
    run: Annotated[str | None, Query(pattern=r"^[A-Za-z0-9._-]{1,140}$")] = None,
    before: Annotated[int | None, Query(ge=0, lt=2**63)] = None,
    limit: Limit = 100,
    kinds: Annotated[str, Query(pattern=r"^[a-z.,]*$", max_length=500)] = "",
) -> list[EventView]:
    """List the last events, of all runs or of one, the newest first; ``before`` an id, only of ``kinds`` (a,b,c)."""
    if run is not None:
        async with state.database.read() as session:
            await runs.get(session, run)
    wanted = [kind for kind in kinds.split(",") if kind]
    return await events.newest(state.database, run=run, kinds=wanted, before=before, limit=limit)
