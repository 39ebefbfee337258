"""A chart as data, how charts look, and what has to be sent when one changes.

Colours are names of CSS variables (``var(--c1)``), functions are names (``fn:bytes``): the page puts in what fits its
theme.  So a chart holds nothing that could be run.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

COLOURS = tuple(f"var(--c{n})" for n in range(1, 9))
INK, MUTED, LINE = "var(--ink)", "var(--muted)", "var(--line)"

Options = dict[str, Any]
Cell = str | float | None


@dataclass(frozen=True)
class Chart:
    """``data`` holds the points of each series by its id; ``options`` everything else.

    ``columns`` and ``rows`` are the same data as a table, in plain units (bytes, seconds, shares of one).  ``summary``
    says in a sentence what is to be seen; ``empty`` what to do where there is nothing yet.
    """

    name: str
    title: str
    options: Options
    data: Mapping[str, Sequence[Any]]
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    summary: str = ""
    empty: str | None = None
    unit: Mapping[str, str] = field(default_factory=dict)
    """How values of a series are written in a tooltip: ``share``, ``number``, ``seconds``, or a unit that follows."""

    def as_props(self) -> dict[str, Any]:
        """Return what the page needs to draw it."""
        return {
            "options": self.options,
            "points": {name: list(points) for name, points in self.data.items()},
            "summary": self.summary,
            "empty": self.empty,
            "units": dict(self.unit),
        }

    def csv(self) -> str:
        """Return the table as CSV (RFC 4180)."""
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow([_inert(name) for name in self.columns])
        writer.writerows([_inert(cell) for cell in row] for row in self.rows)
        return out.getvalue()


def change(before: Chart, after: Chart) -> dict[str, Any]:
    """Return what turns one chart into the next: points that are new, series that are different; {} for nothing."""
    append: dict[str, list[Any]] = {}
    replace: dict[str, list[Any]] = {}
    for name, points in after.data.items():
        old = before.data.get(name)
        if old is not None and len(points) >= len(old) and list(points[: len(old)]) == list(old):
            if len(points) > len(old):
                append[name] = list(points[len(old) :])
        else:
            replace[name] = list(points)
    found: dict[str, Any] = {}
    if append:
        found["append"] = append
    if replace:
        found["replace"] = replace
    if before.options != after.options:
        found["options"] = after.options
    for key in ("summary", "empty"):
        if getattr(before, key) != getattr(after, key):
            found[key] = getattr(after, key)
    if before.unit != after.unit:
        found["units"] = dict(after.unit)
    return found


def _inert(cell: Cell) -> Cell:
    """Return a cell that no spreadsheet takes for a formula."""
    if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{cell}"
    return cell


# --- how charts look ----------------------------------------------------------------------------------------------


def axis(name: str, *, kind: str = "value", **more: Any) -> Options:
    """Return an axis with its name beyond its end."""
    return {"type": kind, "name": name, **more}


def rounds_axis() -> Options:
    """Return the axis of rounds, from the first on."""
    return axis(
        "round", minInterval=1, min=1, max="fn:roundsMax", nameLocation="middle", nameGap=26, splitLine={"show": False}
    )


def shares() -> Options:
    """Return an axis of shares of one, in per cent, around what there is."""
    return axis("", axisLabel={"formatter": "fn:share"}, max="fn:shareMax", min="fn:shareMin")


def frame(x: Options, y: Options, *, legend: Sequence[str] = (), zoom: bool = False) -> Options:
    """Return the options that charts over two axes have in common."""
    room = 26 if y.get("name") else 10
    y = {"nameLocation": "end", "nameTextStyle": {"align": "left"}, "nameGap": 10, **y}
    found: Options = {
        "animation": False,
        "grid": {"left": 8, "right": 16, "top": room, "bottom": 30, "containLabel": True},
        "xAxis": x,
        "yAxis": y,
        "tooltip": {"trigger": "axis", "confine": True},
        "legend": {"show": False, "data": list(legend)},
        "series": [],
    }
    if zoom:
        found["dataZoom"] = [{"type": "inside", "filterMode": "none", "zoomOnMouseWheel": "ctrl"}]
    return found


def line(id: str, name: str, colour: str, **more: Any) -> Options:
    """Return a series that is a line."""
    return {
        "id": id,
        "name": name,
        "type": "line",
        "showSymbol": False,
        "symbolSize": 7,
        "lineStyle": {"width": 2},
        "color": colour,
        "emphasis": {"disabled": True},
        **more,
    }


def lone(points: Sequence[Any]) -> Options:
    """Return what makes a single point visible."""
    return {"showSymbol": len(points) < 3}
