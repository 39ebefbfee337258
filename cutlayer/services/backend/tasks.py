"""Tasks: handed out by long-poll under a lease, kept alive by heartbeats, ended by a result or an error.

A task goes to one owner at a time, also with several backends; everything that is reported may be reported again.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from cutlayer.faults import point
from cutlayer.services import tickets
from cutlayer.services.backend import bell, experiments, transitions
from cutlayer.services.backend.bell import heard
from cutlayer.services.backend.database import Database, Unit
from cutlayer.services.backend.tables import RunRow, TaskRow
from cutlayer.services.backend.tokens import Who
from cutlayer.services.errors import Conflict, Forbidden, NotFound, Unprocessable
from cutlayer.services.protocol import (
    ENDED,
    RESULTS,
    Heartbeat,
    HeartbeatReply,
    NextTask,
    ResultBody,
    Task,
    TaskFailure,
)
from cutlayer.services.tickets import Ticket

TICKET_SECONDS = 86_400.0
MOST_FAILURES = 5
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds before another attempt: doubled with each failure."""
TELL_EVERY = 2.0
"""Seconds between two progress events of a task."""


@dataclass(frozen=True)
class Tasks:
    """The tasks of a database; ``secret`` signs the tickets of clients."""

    database: Database
    secret: str
    lease_seconds: float = 60.0

    async def next(self, who: Who, request: NextTask) -> Task | None:
        """Return a task for whoever asks, None if there is none within ``request.wait`` seconds.

        Raises Unprocessable when a service does not say who it is.
        """
        target, owner = _asker(who, request)
        end = time.monotonic() + min(request.wait, self.database.lost_after / 3)  # who waits is here, and asks again
        with self.database.bell.listening(bell.tasks_of(target)) as rung:
            while True:
                rung.clear()
                task = await self._lease(target, owner, request)
                if task is not None or self.database.bell.closed:
                    return task
                left = end - time.monotonic()
                if left <= 0:
                    return None
                await heard(rung, min(left, await self._next_attempt(target)))

    async def heartbeat(self, who: Who, id: str, beat: Heartbeat) -> HeartbeatReply:
        """Extend the lease; say whether anybody still waits for the result.  Raises NotFound."""
        owner = who.client or beat.owner
        async with self.database.write() as unit:
            task = await self._own(unit, who, id)
            run = await unit.session.get_one(RunRow, task.run)
            taken = task.state == "leased" and owner is not None and task.lease_owner != owner
            if taken or task.state not in transitions.OPEN_TASKS:
                return HeartbeatReply(cancelled=True, paused=run.cause is not None)
            if task.state == "leased" or owner is not None:
                task.state, task.lease_owner = "leased", owner or task.lease_owner
                task.lease_until = unit.now + self.lease_seconds
            if beat.progress is not None:
                task.progress = beat.progress.model_dump()
                if unit.now - task.progress_told >= TELL_EVERY:
                    task.progress_told = unit.now
                    data = {**task.progress, "kind": task.kind, "number": task.number}
                    unit.tell("progress", data, run=task.run, round=task.round, client=who.client)
            return HeartbeatReply(paused=run.cause is not None, evaluate=await self._awaited(unit, run, task))

    async def _awaited(self, unit: Unit, run: RunRow, task: TaskRow) -> bool:
        """Whether a client in the middle of an asynchronous pass is asked for a score."""
        if task.kind != "train" or not experiments.terms(run.experiment)[0].recipe.asynchronous:
            return False
        found = select(TaskRow.id).where(
            TaskRow.target == task.target, TaskRow.run == run.id, TaskRow.kind == "evaluate", TaskRow.state == "waiting"
        )
        return await unit.session.scalar(found.limit(1)) is not None

    async def result(self, who: Who, id: str, body: ResultBody) -> None:
        """Take a result, and let the run go on.

        Raises NotFound, Unprocessable for a result that does not fit the task, Conflict when nobody waits for it.
        """
        async with self.database.write() as unit:
            run, task = await self._with_run(unit, who, id)
            if task.state == "done":
                return
            if task.state not in transitions.OPEN_TASKS:
                raise Conflict(f"this {task.kind} task is {task.state}: its result is not needed", code=task.state)
            task.result = _fitting(task.kind, body.result)
            task.state, task.error, task.updated, task.lease_until = "done", None, unit.now, None
            _tell_done(unit, task)
            await transitions.advance(unit, run)
            point("backend.result.before_commit")
        point("backend.result.after_commit")

    async def error(self, who: Who, id: str, failure: TaskFailure) -> None:
        """Take a failure: another attempt later, or the end of the task.  Raises NotFound."""
        async with self.database.write() as unit:
            run, task = await self._with_run(unit, who, id)
            owner = who.client or failure.owner
            if task.state != "leased" or (owner is not None and task.lease_owner != owner):
                return  # said before, or somebody else has it by now
            task.failures += 1
            task.error, task.retryable, task.updated = failure.message, failure.retryable, unit.now
            task.lease_owner = task.lease_until = None
            again = failure.retryable and task.failures < MOST_FAILURES
            task.state = "waiting" if again else "failed"
            if again:
                task.not_before = unit.now + min(FIRST_WAIT * 2 ** (task.failures - 1), LONGEST_WAIT)
                unit.ring(bell.tasks_of(task.target))
            about = {"kind": task.kind, "target": task.target, "number": task.number, "message": failure.message}
            unit.tell("task.failed", {**about, "retried": again}, run=task.run, round=task.round, client=who.client)
            await transitions.advance(unit, run)

    # --- handing out ----------------------------------------------------------------------------------------------

    async def _lease(self, target: str, owner: str, request: NextTask) -> Task | None:
        async with self.database.read() as session:
            if await _find(session, target, owner, request, self.database.clock()) is None:
                return None
        async with self.database.write() as unit:
            task = await _find(unit.session, target, owner, request, unit.now, skip=not self.database.sqlite)
            if task is None:
                return None
            if task.state == "waiting":
                task.attempts += 1
            if task.started is None:
                task.started = unit.now
                unit.tell("task.started", _about(task), run=task.run, round=task.round, client=_client(task))
            task.state, task.lease_owner, task.updated = "leased", owner, unit.now
            task.lease_until = unit.now + self.lease_seconds
            found = self._task(task, owner)
            point("backend.task.before_commit")
        point("backend.task.after_commit")
        return found

    def _task(self, row: TaskRow, owner: str) -> Task:
        ticket = None
        if row.target.startswith("client:"):
            giver = row.payload.get("giver", row.payload.get("holder"))
            about = Ticket(row.run, row.round, row.number, row.id, row.kind, subject=owner, giver=giver)
            ticket = tickets.issue(self.secret, about, TICKET_SECONDS)
        return Task(
            id=row.id,
            run=row.run,
            round=row.round,
            kind=row.kind,
            payload=row.payload,
            ticket=ticket,
            lease_seconds=self.lease_seconds,
        )

    async def _next_attempt(self, target: str) -> float:
        """In how many seconds a task is due that waits for another attempt."""
        now = self.database.clock()
        found = select(func.min(TaskRow.not_before)).where(
            TaskRow.target == target, TaskRow.state == "waiting", TaskRow.not_before > now
        )
        async with self.database.read() as session:
            due = await session.scalar(found)
        return math.inf if due is None else due - now

    # --- whose task -----------------------------------------------------------------------------------------------

    async def _own(self, unit: Unit, who: Who, id: str) -> TaskRow:
        """Return the task, locked, if it is one that the caller may report on.  Raises NotFound."""
        row: TaskRow | None = await self.database.lock(unit, select(TaskRow).where(TaskRow.id == id))
        mine = row is not None and (
            row.target == f"client:{who.client}" if who.role == "client" else not row.target.startswith("client:")
        )
        if row is None or not mine:
            raise NotFound(f"there is no task {id} for this token")
        return row

    async def _with_run(self, unit: Unit, who: Who, id: str) -> tuple[RunRow, TaskRow]:
        """Return run and task, both locked, the run first."""
        run = await transitions.locked(
            self.database, unit, select(TaskRow.run).where(TaskRow.id == id).scalar_subquery()
        )
        if run is None:
            raise NotFound(f"there is no task {id} for this token")
        return run, await self._own(unit, who, id)


def _asker(who: Who, request: NextTask) -> tuple[str, str]:
    if who.role == "client" and who.client is not None:
        if request.target is not None:
            raise Forbidden(f"a client has no tasks of the {request.target} server")
        return f"client:{who.client}", who.client
    if request.target is None or request.owner is None:
        raise Unprocessable("a service must say its target, split or fed, and its owner, a name for itself")
    return request.target, request.owner


async def _find(
    session: AsyncSession, target: str, owner: str, request: NextTask, now: float, *, skip: bool = False
) -> TaskRow | None:
    """Return the task that ``owner`` holds already, else the oldest that is free; locked if ``skip``."""
    held = (TaskRow.state == "leased") & (TaskRow.lease_owner == owner)
    free = (TaskRow.state == "waiting") & (TaskRow.not_before <= now) & RunRow.cause.is_(None)
    conditions: list[ColumnElement[bool]] = [TaskRow.target == target, held | free, RunRow.state.not_in(ENDED)]
    if request.kinds is not None:
        conditions.append(TaskRow.kind.in_(request.kinds))
    if request.holding:
        conditions.append(TaskRow.id.not_in([str(id) for id in request.holding]))
    found = (
        select(TaskRow)
        .join(RunRow, RunRow.id == TaskRow.run)
        .where(*conditions)
        .order_by(TaskRow.state, TaskRow.created, TaskRow.number, TaskRow.id)  # "leased" is before "waiting"
        .limit(1)
    )
    if skip:
        found = found.with_for_update(skip_locked=True, of=TaskRow)
    row: TaskRow | None = (await session.execute(found)).scalar_one_or_none()
    return row


def _tell_done(unit: Unit, task: TaskRow) -> None:
    """Record how the time of a task was spent, and say that it is done."""
    result = task.result or {}
    by: dict[str, float] = result.get("seconds_by") or {}
    task.server_seconds, task.federated_seconds = by.get("server"), by.get("federated")
    seconds = unit.now - (unit.now if task.started is None else task.started)
    data = {**_about(task), "seconds": seconds, "seconds_by": by, "samples": result.get("samples", result.get("count"))}
    unit.tell("task.done", data, run=task.run, round=task.round, client=_client(task))


def _about(task: TaskRow) -> dict[str, Any]:
    return {"kind": task.kind, "number": task.number, "target": task.target}


def _client(task: TaskRow) -> str | None:
    return task.target.removeprefix("client:") if task.target.startswith("client:") else None


def _fitting(kind: str, result: dict[str, Any]) -> dict[str, Any]:
    try:
        return RESULTS[kind].model_validate(result).model_dump(mode="json")  # type: ignore[index]
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "it"
        reason = first["msg"].removeprefix("Value error, ")
        raise Unprocessable(f"the result of {kind} does not fit: {where}: {reason}", code="bad_result") from error
