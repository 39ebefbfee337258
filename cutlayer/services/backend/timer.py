"""Does what is due without anybody asking: deadlines, lost leases, clients and services, runs that were left behind."""

from __future__ import annotations

import logging

from sqlalchemy import func, select, update

from cutlayer.services.backend import bell, services, transitions
from cutlayer.services.backend.bell import heard
from cutlayer.services.backend.database import Database, Unit
from cutlayer.services.backend.tables import ClientRow, RunRow, ServiceRow, TaskRow
from cutlayer.services.errors import Unavailable
from cutlayer.services.observed import SILENT
from cutlayer.services.protocol import ENDED

log = logging.getLogger(__name__)

MOST_LOSSES = 20
"""How often a server's task may be lost (its worker killed) before the run is paused."""


class Timer:
    """Sleeps until the next thing is due.

    While no backend was awake nobody could show a sign of life: what was due in that time gets its whole time again,
    from the moment this timer woke up.
    """

    def __init__(self, database: Database, lease_seconds: float) -> None:
        self.database, self.lease_seconds, self.lost_after = database, lease_seconds, database.lost_after
        self.awake = database.clock()

    async def run(self) -> None:
        """Work until the bell is closed, or cancelled; a database that is away is tried again."""
        wait = 0.2
        behind = True
        while not self.database.bell.closed:
            with self.database.bell.listening(bell.DUE) as rung:
                try:
                    if behind:
                        self.awake = self.database.clock()
                        await self.recover()
                        behind = False
                    due = await self.sweep()
                    wait = 0.2
                except Unavailable:
                    behind = True
                    wait = min(2 * wait, 5.0)
                    due = self.database.clock() + wait
                except Exception:
                    log.exception("the timer failed, and goes on")
                    due = self.database.clock() + 1.0
                await heard(rung, max(due - self.database.clock(), 0.01))

    async def recover(self) -> None:
        """Look at every open run: a backend may have been killed where it should have gone on."""
        async with self.database.read() as session:
            runs = (await session.execute(select(RunRow.id).where(RunRow.state.not_in(ENDED)))).scalars().all()
        for run in runs:
            await self._advance(run)

    async def sweep(self) -> float:
        """Do what is due now; return when something will be."""
        now = self.database.clock()
        await self._end_leases(now)
        await self._lose_clients(now)
        if now >= self.awake + SILENT:
            await services.lose(self.database, now - SILENT)
        async with self.database.read() as session:
            runs = (await session.execute(select(RunRow.id).where(RunRow.due <= now))).scalars().all()
        for run in runs:
            await self._advance(run)
        return await self._next(now)

    async def _advance(self, run: str) -> None:
        try:
            async with self.database.write() as unit:
                row = await transitions.locked(self.database, unit, run)
                if row is not None:
                    await transitions.advance(unit, row)
        except Unavailable:
            raise
        except Exception:
            log.exception("run %s cannot go on", run)
            async with self.database.write() as unit:
                row = await transitions.locked(self.database, unit, run)
                if row is not None:
                    row.due = None

    async def _end_leases(self, now: float) -> None:
        if now < self.awake + self.lease_seconds:
            return
        async with self.database.read() as session:
            found = select(TaskRow.id, TaskRow.run).where(TaskRow.state == "leased", TaskRow.lease_until <= now)
            lost = (await session.execute(found)).all()
        for task, run in lost:
            async with self.database.write() as unit:
                row = await transitions.locked(self.database, unit, run)
                found_task = await self.database.lock(unit, select(TaskRow).where(TaskRow.id == task))
                if row is None or found_task.state != "leased" or (found_task.lease_until or now) > now:
                    continue
                _lose(unit, found_task)
                await transitions.advance(unit, row)

    async def _lose_clients(self, now: float) -> None:
        if now < self.awake + self.lost_after:
            return
        gone = (ClientRow.connected, ClientRow.last_seen <= now - self.lost_after)
        async with self.database.read() as session:
            lost = (await session.execute(select(ClientRow.id).where(*gone))).scalars().all()
        for client in lost:
            async with self.database.write() as unit:
                row = await self.database.lock(unit, select(ClientRow).where(ClientRow.id == client, *gone))
                if row is not None:
                    row.connected = False
                    unit.tell("client.lost", {"name": row.name}, client=row.id)
                    await disturb(unit, row.id)

    async def _next(self, now: float) -> float:
        """When to wake up.  A lease or sign of life that is given from now on lasts at least its whole time."""
        async with self.database.read() as session:
            run = await session.scalar(select(func.min(RunRow.due)))
            lease = await session.scalar(select(func.min(TaskRow.lease_until)).where(TaskRow.state == "leased"))
            seen = await session.scalar(select(func.min(ClientRow.last_seen)).where(ClientRow.connected))
            heard_of = await session.scalar(select(func.min(ServiceRow.last_seen)).where(ServiceRow.live))
        times = [now + min(self.lease_seconds, self.lost_after)]
        if run is not None:
            times.append(run)
        if lease is not None:
            times.append(max(lease, self.awake + self.lease_seconds))
        if seen is not None:
            times.append(max(seen, self.awake) + self.lost_after)
        if heard_of is not None:
            times.append(max(heard_of, self.awake) + SILENT)
        return min(times)


async def disturb(unit: Unit, client: str) -> None:
    """Have the timers look at every run that this client matters to."""
    runs = select(RunRow.id).where(transitions.runs_of(client)).order_by(RunRow.id)
    for run in (await unit.session.execute(runs)).scalars().all():
        await unit.session.execute(update(RunRow).where(RunRow.id == run).values(due=unit.now))
    unit.ring(bell.DUE)


def _lose(unit: Unit, task: TaskRow) -> None:
    """Nobody heard of the task for a lease's time: whoever comes may have it."""
    owner, task.lease_owner, task.lease_until, task.updated = task.lease_owner, None, None, unit.now
    task.losses += 1
    about = {"kind": task.kind, "target": task.target, "owner": owner, "message": "its lease ended without a word"}
    if task.losses >= MOST_LOSSES and not task.target.startswith("client:"):
        task.state, task.retryable = "failed", True
        task.error = f"its worker was lost {task.losses} times"
    else:
        task.state = "waiting"
        unit.ring(bell.tasks_of(task.target))
    unit.tell("task.failed", {**about, "retried": task.state == "waiting"}, run=task.run, round=task.round)
