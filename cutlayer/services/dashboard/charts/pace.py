"""How fast the split servers have been in the last minutes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cutlayer.services.dashboard.charts.chart import COLOURS, Cell, Chart, axis, frame, line

WAITING = "Nothing yet: servers tell every second how many steps they did."

Moments = Sequence[tuple[float, Mapping[str, float]]]


def steps(moments: Moments) -> Chart:
    """Return steps a second of each server; ``moments`` are (seconds since 1970, steps a second by server)."""
    names = sorted({name for _, found in moments for name in found})
    data: dict[str, list[Any]] = {name: [[1000 * at, found.get(name)] for at, found in moments] for name in names}
    x = {"type": "time", "axisLabel": {"formatter": "fn:clock", "hideOverlap": True}, "splitLine": {"show": False}}
    options = frame(x, axis("steps/s", min=0), legend=names)
    options["series"] = [
        line(name, name, COLOURS[n % len(COLOURS)], connectNulls=False, lineStyle={"width": 2, "type": _dash(n)})
        for n, name in enumerate(names)
    ]
    rows: list[list[Cell]] = [[at, *(found.get(name) for name in names)] for at, found in moments]
    summary = WAITING
    if moments:
        now = [f"{name} {moments[-1][1][name]:.1f}" for name in names if name in moments[-1][1]]
        summary = f"Steps a second now: {', '.join(now)}." if now else "No server does steps now."
    empty = None if names else WAITING
    return Chart(
        "steps",
        "Steps per second",
        options,
        data,
        ("time", *names),
        rows,
        summary,
        empty,
        dict.fromkeys(names, "steps/s"),
    )


def _dash(n: int) -> Any:
    return ("solid", [7, 3], [2, 3])[n // len(COLOURS) % 3]
