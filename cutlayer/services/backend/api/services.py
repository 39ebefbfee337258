"""Split and federated servers: signs of life, and where clients find them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from cutlayer.services.backend import services
from cutlayer.services.backend.api.shared import Backend, Reader, allow
from cutlayer.services.backend.tokens import Who
from cutlayer.services.protocol import Endpoints, Peers, ServiceHeartbeat, ServiceView

routes = APIRouter(tags=["services"])


@routes.post("/services/heartbeat")
async def heartbeat(
    beat: ServiceHeartbeat, who: Annotated[Who, Depends(allow("service", operator=False))], state: Backend
) -> Peers:
    """Say that a replica is alive; every few seconds."""
    return Peers(peers=await services.beat(state.database, beat))


@routes.get("/services")
async def listed(who: Reader, state: Backend) -> list[ServiceView]:
    """List split and federated servers."""
    async with state.database.read() as session:
        return await services.listed(session, state.database.clock())


@routes.get("/endpoints")
async def endpoints(who: Annotated[Who, Depends(allow("client", "service", "viewer"))], state: Backend) -> Endpoints:
    """Where a client finds split and federated servers."""
    settings = state.settings
    async with state.database.read() as session:
        return await services.endpoints(session, state.database.clock(), settings.split_urls, settings.fed_urls)
