"""The figures of rounds in few bytes, written when a round closes: who reads them need not look at every client."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import select

from cutlayer.services.backend.database import Database, Unit
from cutlayer.services.backend.tables import FigureRow, RoundRow, RunRow

PER_CLIENT = ("client_accuracy", "client_loss")
PER_ROUND = (
    *("loss", "test_accuracy", "test_loss", "own_accuracy", "own_loss"),
    *("clients", "dropped", "samples", "bytes_up", "bytes_down", "seconds"),
)
TIMES = ("client_seconds", "server_seconds", "federated_seconds", "evaluation_seconds")
TOTALS = ("total_samples", "total_bytes_up", "total_bytes_down", "total_seconds")
DOUBLE = 8
MOST_TOLD = 20
"""Clients of a round that an event says something of one by one."""


async def record(unit: Unit, run: RunRow, metrics: Mapping[str, Any], ended: float) -> None:
    """Keep the figures of a round that is done, after those of the round before it."""
    number = int(metrics["round"])
    before = await unit.session.get(FigureRow, (run.id, number - 1)) if number > 1 else None
    row = FigureRow(run=run.id, round=number, time=ended, **compact(metrics))
    _add_up(row, before)
    unit.session.add(row)
    run.accuracy, run.seconds = row.accuracy, row.total_seconds
    run.bytes = row.total_bytes_up + row.total_bytes_down


def compact(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a round's line that need no other round."""
    time = metrics.get("time") or {}
    found: dict[str, Any] = {key: metrics.get(key) for key in PER_ROUND}
    found["dropped"] = len(metrics.get("dropped") or ())
    found |= {key: float(time.get(key.removesuffix("_seconds")) or 0.0) for key in TIMES}
    found["bands"] = {key: quantiles((metrics.get(key) or {}).values()) for key in PER_CLIENT}
    return found | {key: packed(metrics.get(key) or {}) for key in PER_CLIENT}


def told(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an event says of a round: its line, without the values of each client where there are many."""
    if metrics["clients"] <= MOST_TOLD:
        return dict(metrics)
    return {key: value for key, value in metrics.items() if not key.startswith("client_")}


def quantiles(values: Iterable[float]) -> list[float] | None:
    """Return minimum, quartiles (linear between neighbours) and maximum, None of nothing."""
    found = sorted(values)
    if not found:
        return None
    places = [(len(found) - 1) * quarter / 4 for quarter in range(5)]
    return [_between(found, place) for place in places]


def _between(found: Sequence[float], place: float) -> float:
    low = int(place)
    share = place - low
    return found[low] + (found[low + 1] - found[low]) * share if share else found[low]


def packed(values: Mapping[str, float]) -> bytes:
    """Return values by client number as doubles, NaN where there is none."""
    by_number = {int(number): value for number, value in values.items()}
    numbers = range(max(by_number, default=-1) + 1)
    return struct.pack(f"<{len(numbers)}d", *(by_number.get(n, math.nan) for n in numbers))


def _add_up(row: FigureRow, before: FigureRow | None) -> None:
    for key in TOTALS:
        total = 0 if before is None else getattr(before, key)
        setattr(row, key, total + getattr(row, key.removeprefix("total_")))
    measured = row.own_accuracy if row.test_accuracy is None else row.test_accuracy
    row.accuracy = before.accuracy if measured is None and before is not None else measured
    row.best_accuracy = None if before is None else before.best_accuracy
    row.best_round = None if before is None else before.best_round
    if measured is not None and (row.best_accuracy is None or measured > row.best_accuracy):
        row.best_accuracy, row.best_round = measured, row.round


def unpacked(piece: bytes, place: int) -> float | None:
    """Return the value at a place of what was packed, None where there is none."""
    if len(piece) < DOUBLE * (place + 1):
        return None
    value: float = struct.unpack_from("<d", piece, DOUBLE * place)[0]
    return None if math.isnan(value) else value


async def catch_up(database: Database) -> None:
    """Keep the figures of rounds that were done before figures were kept."""
    first = select(FigureRow.run).where(FigureRow.run == RoundRow.run, FigureRow.round == 1)
    without = select(RoundRow.run).where(RoundRow.state == "done", RoundRow.number == 1).where(~first.exists())
    async with database.read() as session:
        found = (await session.execute(without)).scalars().all()
    for run in found:
        async with database.write() as unit:
            await _catch_up(database, unit, run)


async def _catch_up(database: Database, unit: Unit, run: str) -> None:
    row = await database.lock(unit, select(RunRow).where(RunRow.id == run))
    if await unit.session.get(FigureRow, (run, 1)) is not None:
        return  # another backend was quicker
    lines = select(RoundRow.metrics, RoundRow.ended).where(RoundRow.run == run, RoundRow.state == "done")
    for metrics, ended in (await unit.session.execute(lines.order_by(RoundRow.number))).all():
        await record(unit, row, metrics, ended)
        await unit.session.flush()
