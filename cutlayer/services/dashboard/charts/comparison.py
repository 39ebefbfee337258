"""Runs side by side: overlaid curves, and a table of what differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cutlayer.report.units import byte_scale, format_bytes, format_number, format_seconds, format_share
from cutlayer.services.dashboard.charts.chart import (
    COLOURS,
    Cell,
    Chart,
    Options,
    axis,
    frame,
    line,
    rounds_axis,
    shares,
)
from cutlayer.services.dashboard.charts.curves import seconds_scale
from cutlayer.services.dashboard.history import History

WAITING = "Nothing yet: none of these runs has finished a round."
DASHES: tuple[Any, ...] = ("solid", [7, 3], [2, 3], [9, 3, 2, 3])


@dataclass(frozen=True)
class Compared:
    """A run in a comparison."""

    id: str
    view: Mapping[str, Any]
    history: History

    @property
    def bytes(self) -> list[float | None]:
        """All bytes so far, both directions, per round."""
        pairs = zip(self.history.column("total_bytes_up"), self.history.column("total_bytes_down"), strict=True)
        return [None if a is None or b is None else a + b for a, b in pairs]

    def reached(self, target: float) -> int | None:
        """Return the place of the first round with at least this accuracy."""
        column = self.history.column(self.history.accuracy)
        return next((n for n, v in enumerate(column) if v is not None and v >= target), None)


def accuracy(runs: Sequence[Compared]) -> Chart:
    """Accuracy per round."""
    points = {run.id: run.history.pairs(run.history.accuracy) for run in runs}
    return _overlaid("accuracy", "Accuracy per round", rounds_axis(), points, "share", "round", "accuracy")


def loss(runs: Sequence[Compared]) -> Chart:
    """Training loss per round."""
    points = {run.id: run.history.pairs("loss") for run in runs}
    return _overlaid("loss", "Training loss per round", rounds_axis(), points, "number", "round", "loss")


def accuracy_against_bytes(runs: Sequence[Compared]) -> Chart:
    """Accuracy against bytes so far."""
    raw = {run.id: _against(run.bytes, run.history.column(run.history.accuracy)) for run in runs}
    divisor, unit = byte_scale(x for points in raw.values() for x, _ in points)
    return _scaled("accuracy-bytes", "Accuracy against bytes", f"bytes so far ({unit})", raw, divisor, "bytes")


def accuracy_against_time(runs: Sequence[Compared]) -> Chart:
    """Accuracy against seconds of training so far."""
    raw = {run.id: run.history.against("total_seconds", run.history.accuracy) for run in runs}
    divisor, unit = seconds_scale([x for points in raw.values() for x, _ in points])
    return _scaled("accuracy-time", "Accuracy against time", f"training time ({unit})", raw, divisor, "seconds")


CHARTS: dict[str, Callable[[Sequence[Compared]], Chart]] = {
    "accuracy": accuracy,
    "loss": loss,
    "accuracy-bytes": accuracy_against_bytes,
    "accuracy-time": accuracy_against_time,
}


def _against(xs: Sequence[float | None], ys: Sequence[float | None]) -> list[list[float]]:
    return [[x, y] for x, y in zip(xs, ys, strict=True) if x is not None and y is not None]


def _scaled(
    name: str, title: str, label: str, raw: Mapping[str, list[list[float]]], divisor: float, unit: str
) -> Chart:
    points = {run: [[x / divisor, y] for x, y in found] for run, found in raw.items()}
    x = axis(label, nameLocation="middle", nameGap=26, min=0, splitLine={"show": False})
    found = _overlaid(name, title, x, points, "share", unit, "accuracy")
    rows: list[Sequence[Cell]] = [[run, *pair] for run, pairs in raw.items() for pair in pairs]
    return Chart(name, title, found.options, found.data, found.columns, rows, found.summary, found.empty, found.unit)


def _overlaid(
    name: str, title: str, x: Options, points: Mapping[str, list[list[float]]], unit: str, across: str, value: str
) -> Chart:
    options = frame(x, shares() if unit == "share" else axis("", scale=True), legend=list(points))
    options["series"] = [
        line(run, run, COLOURS[n % len(COLOURS)], lineStyle={"width": 2, "type": DASHES[n // len(COLOURS) % 4]},
             showSymbol=len(found) < 3)
        for n, (run, found) in enumerate(points.items())
    ]  # fmt: skip
    rows: list[Sequence[Cell]] = [[run, *pair] for run, pairs in points.items() for pair in pairs]
    show = format_share if unit == "share" else format_number
    ends = [f"{run} {show(found[-1][1])}" for run, found in points.items() if found]
    summary = f"Last: {', '.join(ends)}." if ends else WAITING
    empty = None if ends else WAITING
    return Chart(
        name, title, options, points, ("run", across, value), rows, summary, empty, dict.fromkeys(points, unit)
    )


# --- the table ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """What each run has; ``best`` are the places of the best, ``differs`` whether they have different things."""

    name: str
    cells: tuple[str, ...]
    best: frozenset[int] = frozenset()
    differs: bool = False


def target_of(runs: Sequence[Compared]) -> float | None:
    """Return the highest accuracy that every run has reached."""
    bests = [run.history.best() for run in runs]
    return min(best[0] for best in bests if best) if bests and all(bests) else None


def results(runs: Sequence[Compared]) -> list[Row]:
    """Return the figures of the runs, the best marked."""
    last = [run.history.newest(run.history.accuracy) for run in runs]
    best = [found[0] if (found := run.history.best()) else None for run in runs]
    total = [run.bytes[-1] if run.bytes else None for run in runs]
    seconds = [run.history.newest("total_seconds") for run in runs]
    rows = [
        Row("State", tuple("paused" if r.view.get("paused") else str(r.view["state"]) for r in runs)),
        Row("Rounds done", tuple(f"{r.history.last} of {r.view['rounds']}" for r in runs)),
        _figures("Accuracy, last", last, format_share, most=True),
        _figures("Accuracy, best", best, format_share, most=True),
        _figures("Training loss, last", [r.history.newest("loss") for r in runs], format_number),
        _figures("Bytes", total, format_bytes),
        _figures("Training time", seconds, format_seconds),
    ]
    target = target_of(runs)
    if target is not None:
        places = [run.reached(target) for run in runs]
        reached = [None if p is None else float(r.history.rounds[p]) for r, p in zip(runs, places, strict=True)]
        spent = [None if p is None else r.bytes[p] for r, p in zip(runs, places, strict=True)]
        took = [None if p is None else r.history.column("total_seconds")[p] for r, p in zip(runs, places, strict=True)]
        rows += [
            _figures(f"Rounds to {format_share(target)}", reached, lambda v: f"{v:.0f}" if v is not None else "–"),
            _figures(f"Bytes to {format_share(target)}", spent, format_bytes),
            _figures(f"Training time to {format_share(target)}", took, format_seconds),
        ]
    return rows


def _figures(
    name: str, values: Sequence[float | None], show: Callable[[float | None], str], *, most: bool = False
) -> Row:
    known = [v for v in values if v is not None]
    wanted = (max(known) if most else min(known)) if known else None
    best = frozenset(n for n, v in enumerate(values) if v is not None and v == wanted)
    return Row(name, tuple(show(v) for v in values), best if len(set(known)) > 1 else frozenset())


def differences(runs: Sequence[Compared]) -> list[Row]:
    """Return the keys of the experiments that are not the same in all of them."""
    flat = [_flat(run.view["experiment"]) for run in runs]
    keys = list(dict.fromkeys(key for found in flat for key in found))
    rows = [Row(key, tuple(found.get(key, "–") for found in flat), differs=True) for key in keys]
    return [row for row in rows if len(set(row.cells)) > 1]


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, Mapping):
        found: dict[str, str] = {}
        for key, inner in value.items():
            found |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
        return found
    return {prefix.removesuffix(".name"): "–" if value is None else str(value)}


def as_rows(runs: Sequence[Compared]) -> tuple[list[str], list[list[Cell]]]:
    """Return the whole table, for CSV."""
    rows = [*results(runs), *differences(runs)]
    return ["", *(run.id for run in runs)], [[row.name, *row.cells] for row in rows]
