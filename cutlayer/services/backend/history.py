"""The course of a run in as many rounds as somebody wants to see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from cutlayer.services.backend import runs
from cutlayer.services.backend.condensed import DOUBLE, PER_CLIENT, PER_ROUND, TIMES, TOTALS, unpacked
from cutlayer.services.backend.tables import EventRow, FigureRow
from cutlayer.services.observed import Band, ClientSeries, HistoryView

SERIES = ("time", *PER_ROUND, *TIMES, *TOTALS)
BAND = ("min", "q25", "median", "q75", "max")


async def history(session: AsyncSession, run: str, points: int, clients: Sequence[int], after: int) -> HistoryView:
    """Return at most ``points`` rounds after a round, and the series of these clients.  Raises NotFound."""
    await runs.get(session, run)
    event = await last_event(session, run)
    newest = select(FigureRow.round, FigureRow.best_round).where(FigureRow.run == run)
    found = (await session.execute(newest.order_by(FigureRow.round.desc()).limit(1))).one_or_none()
    last, best = (0, None) if found is None else found
    numbers = thinned(after + 1, last, points, best)
    keys = ("round", *SERIES, "bands")
    wanted = select(*(getattr(FigureRow, key) for key in keys)).where(FigureRow.run == run)
    rows = (await session.execute(_of(wanted, numbers, after, last).order_by(FigureRow.round))).all()
    columns = dict(zip(keys, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(keys, ())
    numbers = list(columns["round"])
    bands = {key: [(each.get(key) or [None] * len(BAND)) for each in columns["bands"]] for key in PER_CLIENT}
    return HistoryView(
        rounds=numbers,
        series={key: columns[key] for key in SERIES},
        bands={
            key: Band(**{name: tuple(each[n] for each in values) for n, name in enumerate(BAND)})
            for key, values in bands.items()
        },
        clients=await _own(session, run, numbers, clients, after, last),
        total_rounds=last,
        thinned=len(numbers) < last - after,
        best_round=best,
        event=event,
    )


def thinned(first: int, last: int, points: int, best: int | None) -> list[int]:
    """Return at most ``points`` of the rounds, evenly; first, last and best are among them."""
    count = last - first + 1
    if count <= points:
        return list(range(first, last + 1))
    found = [first + round(n * (count - 1) / (points - 1)) for n in range(points)]
    if best is not None and first < best < last and best not in found and points > 2:
        nearest = min(range(1, points - 1), key=lambda n: abs(found[n] - best))
        found[nearest] = best
    return found


async def last_event(session: AsyncSession, run: str | None = None) -> int:
    """Return the id of the last event, of one run or of all; 0 where there is none."""
    found = select(func.max(EventRow.id))
    return await session.scalar(found if run is None else found.where(EventRow.run == run)) or 0


def _of(wanted: Any, numbers: Sequence[int], after: int, last: int) -> Any:
    every = len(numbers) == last - after
    return wanted.where(FigureRow.round > after if every else FigureRow.round.in_(numbers))


async def _own(
    session: AsyncSession, run: str, numbers: Sequence[int], clients: Sequence[int], after: int, last: int
) -> dict[str, ClientSeries]:
    if not clients:
        return {}
    low, high = min(clients), max(clients)
    wide = DOUBLE * (high - low + 1)
    pieces = [func.substr(getattr(FigureRow, key), DOUBLE * low + 1, wide) for key in PER_CLIENT]
    wanted = _of(select(*pieces).where(FigureRow.run == run), numbers, after, last).order_by(FigureRow.round)
    rows = (await session.execute(wanted)).all()
    return {
        str(n): ClientSeries(
            accuracy=tuple(unpacked(accuracies, n - low) for accuracies, _ in rows),
            loss=tuple(unpacked(losses, n - low) for _, losses in rows),
        )
        for n in clients
    }
