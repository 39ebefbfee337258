"""What clients did when: spans of time, made of their tasks.

A task's time is shared out over what its client did: at work, then waiting for a split server, then for the federated
server (``seconds_by`` of its result); when exactly it waited is not known.  Where there are more tasks than spans may
be, the tasks of neighbouring rounds are merged: each state takes as much of the time as they had of it together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Integer, and_, case, cast, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from cutlayer.services.backend import experiments, runs
from cutlayer.services.backend.history import last_event
from cutlayer.services.backend.tables import ClientRow, MemberRow, RunRow, TaskRow
from cutlayer.services.backend.transitions import OPEN_TASKS
from cutlayer.services.observed import MOST_SPANS, ClientSpans, Span, SpanKind, SpanState, TimelineView

KINDS = ("train", "evaluate")
PARTS = 40
"""As many as the rounds are merged into, where there are more: up to ten spans in each.  Half of it for more clients
than MANY."""
MANY = 50
SHORTEST_IDLE = 0.001
"""Seconds between two tasks that are worth a span."""
_ENDS: dict[str, SpanState] = {"dropped": "dropped", "cancelled": "dropped", "failed": "failed"}


@dataclass(frozen=True)
class Work:
    """One or more tasks of a client: when they were, and how much of that it waited.  Those of a ``part`` are shown
    together."""

    number: int
    part: int
    kind: SpanKind
    state: SpanState
    """``training`` stands for all that a task consists of."""
    round: int
    tasks: int
    since: float
    to: float
    seconds: float
    server: float
    federated: float


async def timeline(
    session: AsyncSession, run: str, now: float, since: float | None, until: float | None, first: int, count: int
) -> TimelineView:
    """Return what the clients from number ``first`` did between two moments.  Raises NotFound."""
    row = await runs.get(session, run)
    event = await last_event(session, run)
    since, until = _window(row, now, since, until)
    members = (
        select(MemberRow.number, ClientRow.name)
        .join(ClientRow, ClientRow.id == MemberRow.client)
        .where(MemberRow.run == run, MemberRow.number >= first)
        .order_by(MemberRow.number)
        .limit(count)
    )
    names = {row.number: row.name for row in await session.execute(members)}
    total = await session.scalar(select(func.count()).select_from(MemberRow).where(MemberRow.run == run))
    works: dict[int, list[Work]] = {number: [] for number in names}
    if names:
        for work in await _works(session, row, now, since, until, list(names)):
            works[work.number].append(work)
    return TimelineView(
        since=since,
        to=until,
        clients=[
            ClientSpans(number=number, name=name, spans=_spans(works[number], since, until))
            for number, name in names.items()
        ],
        total=total or 0,
        event=event,
    )


def _window(run: RunRow, now: float, since: float | None, until: float | None) -> tuple[float, float]:
    end = now if run.ended is None else run.ended
    start = run.created if run.started is None else run.started
    until = end if until is None else until
    return (min(start, until) if since is None else since), until


async def _works(
    session: AsyncSession, run: RunRow, now: float, since: float, until: float, numbers: Sequence[int]
) -> list[Work]:
    """Return the works of these clients, the oldest first."""
    t = TaskRow
    open_ = t.state.in_(OPEN_TASKS)
    ended = case((open_, now), else_=t.updated)
    which = and_(
        t.run == run.id, t.number.in_(numbers), t.kind.in_(KINDS), t.started < until, or_(open_, t.updated > since)
    )
    terms, _ = experiments.terms(run.experiment)
    low, high = 1, run.round
    if terms.recipe.asynchronous or (since, until) != _window(run, now, None, None):
        rounds = select(func.min(t.round).label("low"), func.max(t.round).label("high")).where(which)
        found = (await session.execute(rounds)).one()
        low, high = found.low or 1, found.high or 1
    parts = PARTS if len(numbers) <= MANY else PARTS // 2
    wide = -(-(high - low + 1) // parts)
    part: Any = (t.round - low) // max(wide, 1)
    if wide > 1 and terms.recipe.asynchronous:  # a pass has nothing to do with the round of that number
        part = cast((t.started - since) / max(until - since, 1e-6) * parts, Integer)
    state = _state(now, terms.deadline, ended)
    each = select(
        t.number, part.label("part"), t.kind, state.label("state"), t.round, t.started,
        ended.label("ended"), func.coalesce(t.server_seconds, 0.0).label("server"),
        func.coalesce(t.federated_seconds, 0.0).label("federated"),
    )  # fmt: skip
    e = each.where(which).subquery().c
    sums = (func.sum(e.ended - e.started), func.sum(e.server), func.sum(e.federated))
    keys = (e.number, e.part, e.kind, e.state)
    wanted = select(*keys, func.max(e.round), func.count(), func.min(e.started), func.max(e.ended), *sums)
    return [Work(*row) for row in await session.execute(wanted.group_by(*keys).order_by(e.number, func.min(e.started)))]


def _state(now: float, deadline: float | None, ended: Any) -> Any:
    """The state of a task's span; ``late``: it was still open when the round's time was over."""
    ends = [(TaskRow.state == state, name) for state, name in _ENDS.items()]
    if deadline is not None:
        late = TaskRow.state.in_(("dropped", *OPEN_TASKS)) & (ended - TaskRow.created >= deadline)
        ends.insert(0, (late, "late"))
    return case(*ends, else_="training")


def _spans(works: Sequence[Work], since: float, until: float) -> list[Span]:
    """Return the newest spans of a client, with what is between its tasks."""
    found: list[Span] = []
    free = None
    for together in _together(works):
        start, last = min(work.since for work in together), together[0]
        laid = list(_laid(together))
        if free is not None and start - free > SHORTEST_IDLE:
            laid.insert(0, (last, "idle", free, start))
        for work, state, begun, ended in laid:
            begun, ended = round(max(begun, since), 3), round(min(ended, until), 3)
            if ended > begun:
                span = Span(kind=work.kind, state=state, round=work.round, since=begun, to=ended, tasks=work.tasks)
                found.append(span)
        free = max(work.to for work in together)
    return found[-MOST_SPANS:]


def _together(works: Sequence[Work]) -> list[list[Work]]:
    """Return the works that are laid out as one: those of a part where tasks are merged, else each by itself."""
    if all(work.tasks == 1 for work in works):
        return [[work] for work in works]
    by_part: dict[int, list[Work]] = {}
    for work in works:
        by_part.setdefault(work.part, []).append(work)
    return list(by_part.values())


def _laid(works: Sequence[Work]) -> Iterator[tuple[Work, SpanState, float, float]]:
    """Yield from when to when works were in which state, one after the other, and what is left of the time as idle."""
    at, to = min(work.since for work in works), max(work.to for work in works)
    shares = [(work, state, seconds) for work in works for state, seconds in _shared(work).items() if seconds > 0]
    busy = sum(seconds for *_, seconds in shares)
    scale = min(1.0, (to - at) / busy) if busy else 1.0
    for work, state, seconds in shares:
        yield work, state, at, at + scale * seconds
        at += scale * seconds
    if to - at > SHORTEST_IDLE:
        yield works[-1], "idle", at, to


def _shared(work: Work) -> dict[SpanState, float]:
    """Return the seconds of a work by what its client did."""
    if work.state != "training":
        return {work.state: work.seconds}
    scale = min(1.0, work.seconds / (work.server + work.federated)) if work.server + work.federated else 1.0
    waiting, sending = scale * work.server, scale * work.federated
    return {"training": work.seconds - waiting - sending, "waiting": waiting, "sending": sending}
