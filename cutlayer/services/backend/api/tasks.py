"""Tasks: get one, keep it, end it."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Response

from cutlayer.services.backend.api.shared import Backend, Worker
from cutlayer.services.protocol import (
    Accepted,
    Heartbeat,
    HeartbeatReply,
    NextTask,
    ResultBody,
    TaskFailure,
    TaskReply,
)

routes = APIRouter(prefix="/tasks", tags=["tasks"])


@routes.post("/next", response_model=TaskReply, responses={204: {"description": "no work, within the wait"}})
async def next_task(request: NextTask, who: Worker, state: Backend) -> TaskReply | Response:
    """Ask for work, and wait for it."""
    task = await state.tasks.next(who, request)
    return Response(status_code=204) if task is None else TaskReply(task=task)


@routes.post("/{id}/heartbeat")
async def heartbeat(id: UUID, beat: Heartbeat, who: Worker, state: Backend) -> HeartbeatReply:
    """Keep a task, say how far it is, hear whether it is still wanted."""
    return await state.tasks.heartbeat(who, str(id), beat)


@routes.post("/{id}/result")
async def result(id: UUID, body: ResultBody, who: Worker, state: Backend) -> Accepted:
    """End a task with its result."""
    await state.tasks.result(who, str(id), body)
    return Accepted()


@routes.post("/{id}/error")
async def error(id: UUID, failure: TaskFailure, who: Worker, state: Backend) -> Accepted:
    """End an attempt without a result."""
    await state.tasks.error(who, str(id), failure)
    return Accepted()
