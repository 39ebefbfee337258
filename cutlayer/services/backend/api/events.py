"""Events: streams that go on where they were left, and the audit."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header
from fastapi.responses import StreamingResponse

from cutlayer.services.backend import events, runs
from cutlayer.services.backend.api.shared import After, Backend, Limit, Operator, Reader, RunId
from cutlayer.services.backend.state import State
from cutlayer.services.backend.tokens import Who
from cutlayer.services.protocol import EventView

routes = APIRouter(tags=["events"])

LastEventId = Annotated[int | None, Header(ge=0, lt=2**63)]
_EVENT = {
    "type": "object",
    "description": "`data` is an EventView in JSON",
    "properties": {"id": {"type": "string"}, "event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["id", "event", "data"],
}
STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": _EVENT}}, "description": "server-sent events"}
}


@routes.get("/events", response_class=StreamingResponse, responses=STREAM)
async def everything(
    who: Reader, state: Backend, after: After = 0, last_event_id: LastEventId = None, follow: bool = True
) -> StreamingResponse:
    """Stream the events of all runs and clients after an id; without ``follow`` only those that are there."""
    return _stream(state, who, after if last_event_id is None else last_event_id, None, follow)


@routes.get("/runs/{run}/events", response_class=StreamingResponse, responses=STREAM)
async def of_run(
    run: RunId, who: Reader, state: Backend, after: After = 0, last_event_id: LastEventId = None, follow: bool = True
) -> StreamingResponse:
    """Stream the events of a run after an id; without ``follow`` only those that are there."""
    async with state.database.read() as session:
        await runs.get(session, run)
    return _stream(state, who, after if last_event_id is None else last_event_id, run, follow)


@routes.get("/audit")
async def audit(who: Operator, state: Backend, after: After = 0, limit: Limit = 100) -> list[EventView]:
    """Every privileged act, the oldest first."""
    return await events.after(state.database, after, kind="audit", audit=True, limit=limit)


def _stream(state: State, who: Who, after: int, run: str | None, follow: bool) -> StreamingResponse:
    found = events.stream(state.database, after, run, who.role == "operator", follow)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(found, media_type="text/event-stream", headers=headers)
