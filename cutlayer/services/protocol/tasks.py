"""Tasks: asked for, kept, ended, shown."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from cutlayer.services.protocol.forms import Count, Flag, Json, Reply, Request, Sentence, Text
from cutlayer.services.protocol.words import TaskKind, TaskState, WorkerKind


class NextTask(Request):
    """Asks for work, and waits for it up to ``wait`` seconds.

    A client is known by its key; a service names its ``target`` and itself (``owner``, one per task at a time).  A task
    that the owner holds already is handed out again, unless it is among those it is ``holding`` knowingly.
    """

    owner: Text | None = None
    target: WorkerKind | None = None
    kinds: Annotated[tuple[TaskKind, ...], Field(max_length=20)] | None = None
    wait: Annotated[float, Field(ge=0, le=30, allow_inf_nan=False, strict=True)] = 0.0
    holding: Annotated[tuple[UUID, ...], Field(max_length=100)] = ()


class Task(Reply):
    """Work handed out: report within ``lease_seconds``, by a heartbeat or the result."""

    id: str
    run: str
    round: int
    kind: TaskKind
    payload: dict[str, Any]
    ticket: str | None = None
    lease_seconds: float


class TaskReply(Reply):
    """The answer to NextTask when there is work (without any, the status is 204)."""

    task: Task


class Progress(Request):
    """How far a task is."""

    batches: Count
    of: Count | None = None


class Heartbeat(Request):
    """Still at work; extends the lease."""

    progress: Progress | None = None
    owner: Text | None = None


class HeartbeatReply(Reply):
    """``cancelled``: stop, nobody waits for it any more.  ``paused``: finish this task, no other will come.

    ``evaluate``: the others of the run wait for a score of this client, which a long pass need not hold up.
    """

    cancelled: bool = False
    paused: bool = False
    evaluate: bool = False


class ResultBody(Request):
    """The outcome of a task, in the shape that belongs to its kind (RESULTS)."""

    result: Json
    owner: Text | None = None


class TaskFailure(Request):
    """A task did not work out: why, and whether another attempt may."""

    message: Sentence
    retryable: Flag = False
    owner: Text | None = None


class Accepted(Reply):
    """The backend has it."""

    ok: bool = True


class TaskView(Reply):
    """A task as operators see it."""

    id: str
    run: str
    round: int
    kind: TaskKind
    target: str
    client: int | None = None
    state: TaskState
    attempts: int
    owner: str | None = None
    lease_until: float | None = None
    progress: dict[str, Any] | None = None
    error: str | None = None
    created: float
    updated: float
