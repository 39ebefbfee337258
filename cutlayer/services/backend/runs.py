"""Runs as people see and steer them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from cutlayer.services.backend import experiments, transitions, written
from cutlayer.services.backend.database import Database, Unit
from cutlayer.services.backend.tables import ClientRow, MemberRow, RoundRow, RunRow, TaskRow
from cutlayer.services.backend.tokens import Who
from cutlayer.services.errors import Conflict, NotFound
from cutlayer.services.protocol import (
    ENDED,
    Example,
    Member,
    Planned,
    PlanView,
    RoundView,
    RunView,
    SubmitRun,
    TaskView,
)


async def submit(database: Database, who: Who, request: SubmitRun) -> str:
    """Keep a new run and return its id.  Raises Unprocessable for an experiment that services cannot run."""
    if request.yaml is None:
        experiment = experiments.accepted(request.experiment or {})
    else:
        experiment = await asyncio.to_thread(written.read, request.yaml)
    submission = None if request.submission is None else str(request.submission)
    algorithm = str(experiment.algorithm["name"])
    name = (request.name or experiment.name or algorithm)[:100]
    try:
        async with database.write() as unit:
            if submission is not None:
                known = await unit.session.scalar(select(RunRow.id).where(RunRow.submission == submission))
                if known is not None:
                    return known
            row = RunRow(
                id=f"{name}-{secrets.token_hex(4)}",
                submission=submission,
                algorithm=algorithm,
                experiment=experiment.as_dict(),
                state="queued",
                round=0,
                rounds=experiment.rounds,
                created=unit.now,
            )
            unit.session.add(row)
            await unit.session.flush()
            unit.tell("run.submitted", {"algorithm": algorithm, "by": who.name}, run=row.id)
            note(unit, who, "run.submit", run=row.id)
            await transitions.advance(unit, row)
            return row.id
    except IntegrityError:  # the same submission came twice at once
        return await submit(database, who, request)


async def steer(database: Database, who: Who, run: str, act: str) -> None:
    """Cancel, pause or resume a run.  Again is no error.  Raises NotFound, and Conflict when it has ended."""
    async with database.write() as unit:
        row = await transitions.locked(database, unit, run)
        if row is None:
            raise _missing(run)
        if act == "cancel" and row.state == "cancelled":
            return
        if row.state in ENDED:
            raise Conflict(f"the run {run} has ended ({row.state}): there is nothing to {act}", code="ended")
        if act == "cancel":
            await transitions.stop(unit, row, "cancelled", f"cancelled by {who.name}")
        elif act == "pause" and row.cause != "operator":
            transitions.pause(unit, row, "operator", f"paused by {who.name}")
        elif act == "resume" and row.cause is not None:
            await transitions.resume(unit, row)
            await transitions.advance(unit, row)
        else:
            return
        note(unit, who, f"run.{act}", run=run)


def note(unit: Unit, who: Who, act: str, *, run: str | None = None, client: str | None = None, **about: Any) -> None:
    """Record a privileged act."""
    unit.tell(
        "audit", {"act": act, "by": who.name, "role": who.role, "token": who.token, **about}, run=run, client=client
    )


async def view(session: AsyncSession, who: Who, run: str) -> RunView:
    """Return a run; a client sees of its members only itself.  Raises NotFound, also for one that is not its."""
    row = await get(session, run)
    found = (
        select(MemberRow, ClientRow)
        .join(ClientRow, ClientRow.id == MemberRow.client)
        .where(MemberRow.run == run)
        .order_by(MemberRow.number)
    )
    rows = (await session.execute(found)).all()
    members = [
        Member(
            number=member.number,
            client_id=client.id,
            name=client.name,
            connected=client.connected,
            samples=member.samples,
            test_samples=member.test_samples,
        )
        for member, client in rows
    ]
    if who.role != "client":
        return shown(row, members)
    own = [member for member in members if member.client_id == who.client]
    if not own:
        raise _missing(run)
    return shown(row, own, own[0].number)


async def get(session: AsyncSession, run: str) -> RunRow:
    """Return the run's row.  Raises NotFound."""
    row = await session.get(RunRow, run)
    if row is None:
        raise _missing(run)
    return row


async def rounds(session: AsyncSession, run: str) -> list[RoundView]:
    """Return the rounds of a run.  Raises NotFound."""
    asynchronous = experiments.terms((await get(session, run)).experiment)[0].recipe.asynchronous
    rows = (
        (await session.execute(select(RoundRow).where(RoundRow.run == run).order_by(RoundRow.number))).scalars().all()
    )
    found = select(TaskRow.round, TaskRow.number, TaskRow.state).where(TaskRow.run == run, TaskRow.kind == "train")
    ends: dict[tuple[int, str], set[int]] = {}
    for round_, number, state in await session.execute(found):
        ends.setdefault((round_, state), set()).add(number)
    return [
        RoundView(
            round=row.number,
            state=row.state,
            participants=_planned(row),
            finished=_passed(row)
            if asynchronous
            else tuple(p["client"] for p in row.plan if p["client"] in ends.get((row.number, "done"), ())),
            dropped=tuple(p["client"] for p in row.plan if p["client"] in ends.get((row.number, "dropped"), ())),
            deadline=row.due,
            started=row.started,
            ended=row.ended,
            metrics=row.metrics,
        )
        for row in rows
    ]


async def plan(session: AsyncSession, run: str, number: int) -> PlanView:
    """Return the plan of a round.  Raises NotFound."""
    row = await session.get(RoundRow, (run, number))
    if row is None:
        raise NotFound(f"the run {run} has no round {number} yet")
    return PlanView(run=run, round=number, participants=_planned(row))


async def lines(session: AsyncSession, run: str, after: int) -> list[dict[str, Any]]:
    """Return the metrics of the rounds that are done.  Raises NotFound."""
    await get(session, run)
    found = select(RoundRow.metrics).where(RoundRow.run == run, RoundRow.number > after, RoundRow.state == "done")
    return [m for m in (await session.execute(found.order_by(RoundRow.number))).scalars() if m is not None]


async def tasks(session: AsyncSession, run: str, limit: int) -> list[TaskView]:
    """Return the newest tasks of a run.  Raises NotFound."""
    await get(session, run)
    found = (
        select(TaskRow).where(TaskRow.run == run).order_by(TaskRow.created.desc(), TaskRow.number.desc()).limit(limit)
    )
    return [
        TaskView(
            id=row.id,
            run=row.run,
            round=row.round,
            kind=row.kind,
            target=row.target,
            client=row.number if row.number >= 0 else None,
            state=row.state,
            attempts=row.attempts,
            owner=row.lease_owner,
            lease_until=row.lease_until,
            progress=row.progress,
            error=row.error,
            created=row.created,
            updated=row.updated,
        )
        for row in (await session.execute(found)).scalars()
    ]


def shown(row: RunRow, members: Sequence[Member] = (), number: int | None = None, *, evaluated: bool = True) -> RunView:
    """Return a run as its reader sees it, with its last evaluation or without."""
    over = row.state in ("finishing", "done")
    return RunView(
        id=row.id,
        state=row.state,
        paused=row.cause is not None,
        cause=row.cause,
        reason=row.reason,
        algorithm=row.algorithm,
        experiment=row.experiment,
        clients=row.clients,
        round=row.round,
        rounds=row.rounds,
        example=None if row.example is None else Example.model_validate(row.example),
        members=tuple(members),
        number=number,
        evaluation=row.evaluation if evaluated else None,
        summary=row.summary,
        created=row.created,
        started=row.started,
        ended=row.ended,
        progress=max(row.round if over else row.round - 1, 0) / row.rounds,
        test_accuracy=row.accuracy,
        bytes=row.bytes,
        seconds=row.seconds,
    )


def _passed(row: RoundRow) -> tuple[int, ...]:
    """Return who ended a pass in a round of an asynchronous run."""
    return tuple(int(number) for number in (row.metrics or {}).get("client_samples", {}))


def _planned(row: RoundRow) -> tuple[Planned, ...]:
    return tuple(Planned(client=p["client"], samples=p["samples"]) for p in row.plan)


def _missing(run: str) -> NotFound:
    return NotFound(f"there is no run {run}")
