"""Pages of the list of runs: some of them, in some order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Double, cast, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer

from cutlayer.services.backend import runs
from cutlayer.services.backend.tables import RunRow
from cutlayer.services.protocol import RunList, RunState

Sort = Literal["created", "id", "state", "algorithm", "progress", "accuracy", "bytes", "seconds"]
Order = Literal["asc", "desc"]

_BY: dict[Sort, ColumnElement[Any]] = {
    "created": RunRow.created.expression,
    "id": RunRow.id.expression,
    "state": RunRow.state.expression,
    "algorithm": RunRow.algorithm.expression,
    "progress": cast(RunRow.round, Double) / RunRow.rounds,
    "accuracy": func.coalesce(RunRow.accuracy, -1.0),
    "bytes": RunRow.bytes.expression,
    "seconds": RunRow.seconds.expression,
}


@dataclass(frozen=True)
class Wanted:
    """Which runs: of one of these states, of this algorithm, with this text in their id, the name of their model, data
    or algorithm; each only if given."""

    states: Sequence[RunState] = ()
    algorithm: str | None = None
    text: str | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return what holds of such a run."""
        found: list[ColumnElement[bool]] = []
        if self.states:
            found.append(RunRow.state.in_(self.states))
        if self.algorithm is not None:
            found.append(RunRow.algorithm == self.algorithm)
        if self.text:
            names = (RunRow.experiment[key]["name"].as_string() for key in ("model", "data"))
            places = (RunRow.id, RunRow.algorithm, *names)
            has = [func.lower(place).contains(self.text.lower(), autoescape=True) for place in places]
            found.append(has[0] | has[1] | has[2] | has[3])
        return found


async def page(
    session: AsyncSession, wanted: Wanted, sort: Sort, order: Order, limit: int, after: str | None
) -> RunList:
    """Return runs in order, those that are equal in it by id.  Raises NotFound for an ``after`` that is no run."""
    by, which = _BY[sort], wanted.conditions()
    total = await session.scalar(select(func.count()).select_from(RunRow).where(*which))
    down = order == "desc"
    keys = (by.desc(), RunRow.id.desc()) if down else (by, RunRow.id)
    found = select(RunRow).options(defer(RunRow.evaluation, raiseload=True)).where(*which).order_by(*keys)
    if after is not None:
        await runs.get(session, after)
        last = tuple_(*(select(key).where(RunRow.id == after).scalar_subquery() for key in (by, RunRow.id)))
        place = tuple_(by, RunRow.id)
        found = found.where(place < last if down else place > last)
    rows = (await session.execute(found.limit(limit + 1))).scalars().all()
    return RunList(
        runs=tuple(runs.shown(row, evaluated=False) for row in rows[:limit]),
        next=rows[limit - 1].id if len(rows) > limit else None,
        total=total,
    )
