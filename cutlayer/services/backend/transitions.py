"""Makes the steps of the life cycle, inside a transaction that holds the run's row.

Whoever changes something that a run may wait for either calls `advance` in the same transaction, or sets the run's
``due`` to now and rings: then the timer of any backend does it.  So a backend can be killed anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cutlayer.services.backend import bell, condensed, experiments, lifecycle
from cutlayer.services.backend import picture as steps
from cutlayer.services.backend.database import Database, Unit
from cutlayer.services.backend.picture import Job, Member, Picture, Round, Step, Terms
from cutlayer.services.backend.tables import ClientRow, MemberRow, RoundRow, RunRow, TaskRow
from cutlayer.services.protocol import ENDED

OPEN_TASKS = ("waiting", "leased")
MEMBERS = (steps.Choose, steps.Seat, steps.Welcome, steps.Refuse, steps.Requeue, steps.Learn)
"""Steps that change who takes part."""


async def locked(database: Database, unit: Unit, run: Any) -> RunRow | None:
    """Return the run with that id (or expression), locked until the transaction ends; None if there is none."""
    row: RunRow | None = await database.lock(unit, select(RunRow).where(RunRow.id == run))
    return row


async def advance(unit: Unit, run: RunRow) -> None:
    """Make every step that is due in this run, whose row is locked."""
    members = await _members(unit.session, run.id)
    while True:
        picture = await _look(unit, run, members)
        following = lifecycle.following(picture)
        if not following:
            run.due = lifecycle.due(picture)
            if run.due is not None:
                unit.ring(bell.DUE)
            return
        for step in following:
            await _make(unit, run, step)
        await unit.session.flush()
        if any(isinstance(step, MEMBERS) for step in following):
            members = await _members(unit.session, run.id)


async def _look(unit: Unit, run: RunRow, members: tuple[Member, ...]) -> Picture:
    session = unit.session
    terms, require = experiments.terms(run.experiment)
    round_ = await session.get(RoundRow, (run.id, run.round)) if run.round else None
    tasks = await _tasks(session, run, terms)
    passed, passes = await _passes(session, run) if terms.recipe.asynchronous else (0, {})
    lines: Sequence[Any] = ()
    if run.state == "finishing":
        metrics = select(RoundRow.metrics).where(RoundRow.run == run.id).order_by(RoundRow.number)
        lines = (await session.execute(metrics)).scalars().all()
    return Picture(
        run=run.id,
        state=run.state,  # type: ignore[arg-type]
        terms=terms,
        now=unit.now,
        cause=run.cause,  # type: ignore[arg-type]
        members=members,
        round=None if round_ is None else _round(round_),
        jobs=tuple(_job(task) for task in tasks),
        candidates=await _candidates(unit, run, terms.join, require, members),
        require=require,
        example=run.example,
        holder=run.holder,
        passed=passed,
        passes=passes,
        lines=tuple(lines),
    )


async def _tasks(session: AsyncSession, run: RunRow, terms: Terms) -> Sequence[TaskRow]:
    """Return the tasks of the round; asynchronous: with the passes that are open, or ended in it."""
    found = select(TaskRow).where(TaskRow.run == run.id).execution_options(populate_existing=True)
    if not terms.recipe.asynchronous or not run.round:
        wanted = TaskRow.round == run.round
        if terms.join:
            wanted |= TaskRow.kind == "prepare"
        return (await session.execute(found.where(wanted).order_by(TaskRow.number))).scalars().all()
    of_round = found.where(TaskRow.round == run.round, TaskRow.kind != "train").order_by(TaskRow.number)
    open_ = found.where(TaskRow.kind == "train", TaskRow.state.in_((*OPEN_TASKS, "failed"))).order_by(TaskRow.number)
    working = max(1, round(terms.fraction * (run.clients or 1)))
    done = found.where(TaskRow.kind == "train", TaskRow.state == "done").order_by(TaskRow.updated, TaskRow.id)
    ended = done.offset((run.round - 1) * working).limit(working)
    return [row for each in (of_round, open_, ended) for row in (await session.execute(each)).scalars()]


async def _passes(session: AsyncSession, run: RunRow) -> tuple[int, dict[int, int]]:
    """Return how many passes are done, and how many each client has begun."""
    of_run = TaskRow.run == run.id, TaskRow.kind == "train"
    done = await session.scalar(select(func.count()).select_from(TaskRow).where(*of_run, TaskRow.state == "done"))
    found = select(TaskRow.number, func.max(TaskRow.round)).where(*of_run).group_by(TaskRow.number)
    return done or 0, {row[0]: row[1] for row in await session.execute(found)}


async def stop(unit: Unit, run: RunRow, state: str, reason: str | None = None) -> None:
    """End a run before its time, with everything that was to be done for it."""
    _enter(unit, run, state, reason)
    await _cancel(unit, run)


async def _cancel(unit: Unit, run: RunRow, *which: ColumnElement[bool]) -> None:
    await unit.session.execute(
        update(TaskRow)
        .where(TaskRow.run == run.id, TaskRow.state.in_(OPEN_TASKS), *which)
        .values(state="cancelled", updated=unit.now, lease_until=None)
        .execution_options(synchronize_session=False)
    )


def pause(unit: Unit, run: RunRow, cause: str, reason: str) -> None:
    """Let a run wait."""
    run.cause, run.reason, run.due = cause, reason, None
    _say_state(unit, run)
    if cause == "quorum":
        unit.tell("quorum", {"reason": reason}, run=run.id, round=run.round)


async def resume(unit: Unit, run: RunRow) -> None:
    """Let a run go on; what failed may try again, and a round has its whole time again."""
    run.cause = run.reason = None
    for_good = ("evaluate",) if run.state == "preparing" else ("evaluate", "prepare")
    again = (
        update(TaskRow)
        .where(TaskRow.run == run.id, TaskRow.state == "failed", TaskRow.kind.not_in(for_good))
        .values(state="waiting", failures=0, losses=0, not_before=0.0, error=None, lease_owner=None, updated=unit.now)
        .execution_options(synchronize_session=False)
    )
    await unit.session.execute(again)
    waiting = select(TaskRow.target).where(TaskRow.run == run.id, TaskRow.state == "waiting").distinct()
    unit.ring(*(bell.tasks_of(target) for target in (await unit.session.execute(waiting)).scalars()))
    terms, _ = experiments.terms(run.experiment)
    round_ = await unit.session.get(RoundRow, (run.id, run.round)) if run.round else None
    if round_ is not None and round_.due is not None and terms.deadline is not None:
        round_.due = unit.now + terms.deadline
    _say_state(unit, run)


def runs_of(client: str) -> Any:
    """The condition that a run may wait for this client: it takes part, or the run is still looking for clients."""
    mine = select(MemberRow.run).where(MemberRow.client == client)
    open_ = RunRow.state.in_(("queued", "preparing")) | RunRow.experiment["clients"]["join"].as_boolean()
    return RunRow.state.not_in(ENDED) & (open_ | RunRow.id.in_(mine))


# --- rows ---------------------------------------------------------------------------------------------------------


async def _members(session: AsyncSession, run: str) -> tuple[Member, ...]:
    found = (
        select(MemberRow, ClientRow.name, ClientRow.connected)
        .join(ClientRow, ClientRow.id == MemberRow.client)
        .where(MemberRow.run == run)
        .order_by(MemberRow.number)
    )
    rows = await session.execute(found)
    return tuple(Member(row.number, row.client, name, here, row.samples) for row, name, here in rows)


async def _candidates(
    unit: Unit, run: RunRow, join: bool, require: dict[str, str], members: Sequence[Member]
) -> tuple[str, ...]:
    if run.state not in ("queued", "preparing", *(("running",) if join else ())):
        return ()
    here = (ClientRow.connected, ClientRow.last_seen > unit.seen_since, ClientRow.revoked.is_(None))
    taken = [member.client for member in members]
    found = select(ClientRow).where(*here, ClientRow.id.not_in(taken)).order_by(ClientRow.name)
    clients = (await unit.session.execute(found)).scalars()
    return tuple(c.id for c in clients if require.items() <= c.capabilities.get("labels", {}).items())


def _round(row: RoundRow) -> Round:
    order = tuple(planned["client"] for planned in row.plan)
    return Round(row.number, row.state, order, row.due, row.started, row.trained)  # type: ignore[arg-type]


def _job(row: TaskRow) -> Job:
    batches = int((row.progress or {}).get("batches") or 0)
    return Job(
        row.kind,  # type: ignore[arg-type]
        row.target,
        row.state,  # type: ignore[arg-type]
        row.number,
        row.result or {},
        row.retryable,
        row.error,
        batches,
        row.created,
    )


# --- steps --------------------------------------------------------------------------------------------------------


async def _make(unit: Unit, run: RunRow, step: Step) -> None:
    match step:
        case steps.Enter(state, reason):
            _enter(unit, run, state) if reason is None else await stop(unit, run, state, reason)
        case steps.Choose(clients):
            terms, _ = experiments.terms(run.experiment)
            run.clients = terms.count if terms.join else len(clients)
            unit.session.add_all(MemberRow(run=run.id, number=n, client=client) for n, client in enumerate(clients))
        case steps.Seat(number, client, reason):
            await _seat(unit, run, number, client, reason)
        case steps.Welcome(number, samples, test_samples):
            await _welcome(unit, run, number, samples, test_samples)
        case steps.Refuse(number, reason):
            await _refuse(unit, run, number, reason)
        case steps.Requeue(reason):
            await _requeue(unit, run, reason)
        case steps.Learn(example, found):
            run.example = dict(example)
            for number, (train, test) in enumerate(found):
                row = await unit.session.get_one(MemberRow, (run.id, number))
                row.samples, row.test_samples = train, test
        case steps.Create():
            _create(unit, run, step)
        case steps.Cancel(kind):
            await _cancel(unit, run, TaskRow.kind == kind)
        case steps.Drop(kind, number, reason):
            await _drop(unit, run, kind, number, reason)
        case steps.Open(number, order):
            await _open(unit, run, number, order)
        case steps.Move(state, due, holder):
            await _move(unit, run, state, due, holder)
        case steps.Close(metrics, evaluation):
            await _close(unit, run, dict(metrics), evaluation)
        case steps.Pause(cause, reason):
            pause(unit, run, cause, reason)
        case steps.Resume():
            await resume(unit, run)
        case steps.Finish(summary):
            run.summary = dict(summary)


def _enter(unit: Unit, run: RunRow, state: str, reason: str | None = None) -> None:
    run.state, run.reason, run.cause = state, reason, None
    if state == "running":
        run.started = unit.now
    if state in ENDED:
        run.ended, run.due = unit.now, None
    _say_state(unit, run)


def _say_state(unit: Unit, run: RunRow) -> None:
    data = {"state": run.state, "paused": run.cause is not None, "cause": run.cause, "reason": run.reason}
    unit.tell("run.state", data, run=run.id, round=run.round)


async def _seat(unit: Unit, run: RunRow, number: int, client: str, reason: str | None) -> None:
    row = await unit.session.get(MemberRow, (run.id, number))
    if row is None:
        unit.session.add(MemberRow(run=run.id, number=number, client=client))
    else:
        await _vacate(unit, run, MemberRow.number == number)
        _left_out(unit, run, row, reason)
        row.client = client
    await unit.session.flush()
    if run.state == "preparing":
        await _seated(unit, run, number, client)


async def _welcome(unit: Unit, run: RunRow, number: int, samples: int, test_samples: int) -> None:
    row = await unit.session.get_one(MemberRow, (run.id, number))
    row.samples, row.test_samples = samples, test_samples
    await _seated(unit, run, number, row.client, samples=samples)


async def _refuse(unit: Unit, run: RunRow, number: int, reason: str) -> None:
    row = await unit.session.get_one(MemberRow, (run.id, number))
    task = (TaskRow.run == run.id, TaskRow.kind == "prepare", TaskRow.target == f"client:{row.client}")
    values = {"state": "failed", "error": reason, "updated": unit.now}  # so that it is not chosen again
    await unit.session.execute(update(TaskRow).where(*task).values(values).execution_options(synchronize_session=False))
    _left_out(unit, run, row, reason)
    await unit.session.delete(row)


def _left_out(unit: Unit, run: RunRow, row: MemberRow, reason: str | None) -> None:
    data = {"kind": "prepare", "number": row.number, "reason": reason}
    unit.tell("client.dropped", data, run=run.id, round=run.round, client=row.client)


async def _seated(unit: Unit, run: RunRow, number: int, client: str, **more: Any) -> None:
    name = (await unit.session.get_one(ClientRow, client)).name
    data = {"number": number, "name": name, **more}
    unit.tell("client.seated", data, run=run.id, round=run.round, client=client)


async def _requeue(unit: Unit, run: RunRow, reason: str) -> None:
    await _vacate(unit, run, MemberRow.run == run.id)
    await unit.session.execute(delete(MemberRow).where(MemberRow.run == run.id))
    run.clients = None
    _enter(unit, run, "queued", reason)


async def _vacate(unit: Unit, run: RunRow, whose: Any) -> None:
    """Nobody waits any more for what these clients prepare; whoever gets the same place again prepares anew."""
    numbers = select(MemberRow.number).where(MemberRow.run == run.id, whose)
    await unit.session.execute(
        delete(TaskRow)
        .where(TaskRow.run == run.id, TaskRow.kind == "prepare", TaskRow.number.in_(numbers))
        .execution_options(synchronize_session=False)
    )


def _create(unit: Unit, run: RunRow, step: steps.Create) -> None:
    unit.session.add(
        TaskRow(
            id=str(uuid4()),
            run=run.id,
            round=run.round if step.round is None else step.round,
            kind=step.kind,
            target=step.target,
            number=step.number,
            payload=dict(step.payload),
            state="waiting",
            attempts=0,
            failures=0,
            losses=0,
            retryable=False,
            not_before=0.0,
            progress_told=0.0,
            created=unit.now,
            updated=unit.now,
        )
    )
    unit.ring(bell.tasks_of(step.target))


async def _drop(unit: Unit, run: RunRow, kind: str, number: int, reason: str) -> None:
    found = select(TaskRow).where(
        TaskRow.run == run.id, TaskRow.round == run.round, TaskRow.kind == kind, TaskRow.number == number
    )
    task = (await unit.session.execute(found)).scalar_one()
    task.state, task.error, task.lease_until, task.updated = "dropped", reason, None, unit.now
    client = task.target.removeprefix("client:")
    data = {"kind": kind, "number": number, "reason": reason}
    unit.tell("client.dropped", data, run=run.id, round=run.round, client=client)


async def _open(unit: Unit, run: RunRow, number: int, order: Sequence[int]) -> None:
    members = {member.number: member for member in await _members(unit.session, run.id)}
    plan = [{"client": n, "samples": members[n].samples} for n in order]
    unit.session.add(RoundRow(run=run.id, number=number, state="selected", plan=plan, started=unit.now))
    run.round = number
    data = {"state": "selected", "count": len(plan), "participants": plan if len(plan) <= condensed.MOST_TOLD else []}
    unit.tell("round.state", data, run=run.id, round=number)


async def _move(unit: Unit, run: RunRow, state: str, due: float | None, holder: int | None) -> None:
    row = await unit.session.get_one(RoundRow, (run.id, run.round))
    row.state, row.due = state, due
    if state == "evaluating":
        row.trained = unit.now
    if holder is not None:
        run.holder = holder
    unit.tell("round.state", {"state": state}, run=run.id, round=run.round)


async def _close(unit: Unit, run: RunRow, metrics: dict[str, Any], evaluation: Any) -> None:
    row = await unit.session.get_one(RoundRow, (run.id, run.round))
    row.state, row.due, row.ended, row.metrics = "done", None, unit.now, metrics
    if evaluation is not None:
        names = (run.example or {}).get("class_names")
        run.evaluation = {"classes": names, **evaluation}
    await condensed.record(unit, run, metrics, unit.now)
    unit.tell("round.state", {"state": "done"}, run=run.id, round=run.round)
    unit.tell("round", condensed.told(metrics), run=run.id, round=run.round)
