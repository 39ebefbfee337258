"""What somebody who looks on asks for: the course of a run, its clients' time, the whole system."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from cutlayer.services.backend import history, system, timeline
from cutlayer.services.backend.api.shared import Backend, Reader, RunId
from cutlayer.services.errors import Unprocessable
from cutlayer.services.observed import MOST_CLIENTS, MOST_POINTS, MOST_ROWS, HistoryView, SystemView, TimelineView
from cutlayer.services.protocol import Reply

routes = APIRouter(tags=["observed"])

Moment = Annotated[float | None, Query(ge=0, le=1e12, allow_inf_nan=False)]
Number = Annotated[int, Query(ge=0, lt=2**31)]


@routes.get("/runs/{run}/history", response_model=HistoryView)
async def get_history(
    run: RunId,
    who: Reader,
    state: Backend,
    points: Annotated[int, Query(ge=2, le=MOST_POINTS)] = 500,
    clients: Annotated[str, Query(pattern=r"^(\d{1,5}(,\d{1,5})*)?$", max_length=200)] = "",
    after: Number = 0,
) -> Response:
    """The figures of a run's rounds, thinned to as many points; those of all clients as bands, of a few by number."""
    numbers = sorted({int(each) for each in clients.split(",") if each})
    if len(numbers) > MOST_CLIENTS:
        raise Unprocessable(f"clients: expected at most {MOST_CLIENTS} numbers, got {len(numbers)}")
    async with state.database.read() as session:
        return _written(await history.history(session, run, points, numbers, after))


@routes.get("/runs/{run}/timeline", response_model=TimelineView)
async def get_timeline(
    run: RunId,
    who: Reader,
    state: Backend,
    since: Moment = None,
    until: Moment = None,
    first: Number = 0,
    count: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 50,
) -> Response:
    """What clients did when; of the whole run, or between two moments."""
    if since is not None and until is not None and until < since:
        raise Unprocessable(f"until: expected a moment after since, {since}, got {until}")
    async with state.database.read() as session:
        now = state.database.clock()
        return _written(await timeline.timeline(session, run, now, since, until, first, count))


@routes.get("/system")
async def get_system(who: Reader, state: Backend) -> SystemView:
    """Services, clients, runs and database at this moment."""
    return await system.system(state.database, state.started)


def _written(found: Reply) -> Response:
    """Return a large reply as JSON at once, without the dictionaries in between that FastAPI makes of it."""
    return Response(found.model_dump_json(by_alias=True), media_type="application/json")
