"""Clients × time: who does what when, and who is slow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from cutlayer.report.units import format_seconds
from cutlayer.services.dashboard.charts.chart import Cell, Chart, Options

STATES: tuple[tuple[str, str, str], ...] = (
    ("training", "training", "var(--t-training)"),
    ("waiting", "waiting for a split server", "var(--t-waiting)"),
    ("sending", "sending and fetching weights", "var(--t-sending)"),
    ("evaluating", "scoring", "var(--t-evaluating)"),
    ("idle", "idle", "var(--t-idle)"),
    ("late", "late", "var(--t-late)"),
    ("dropped", "dropped", "var(--t-dropped)"),
    ("failed", "failed", "var(--t-failed)"),
)
PLACES = {state: n for n, (state, _, _) in enumerate(STATES)}
SLOW = 1.5
"""So many times the median of all is a straggler, if it is also BY seconds more."""
BY = 0.05
ROW = 26
"""Pixels of a client's row."""

Order = Literal["slowest", "name", "number"]


@dataclass(frozen=True)
class Pace:
    """How long a client works in a round on the average, and how many times the median of all that is."""

    seconds: float
    times: float
    lost: int = 0
    """Rounds in which it was late, dropped or failed."""

    @property
    def straggles(self) -> bool:
        """Whether the others could wait for this client."""
        return self.times >= SLOW and self.seconds - self.seconds / self.times > BY


def paces(clients: Sequence[Mapping[str, Any]]) -> dict[int, Pace]:
    """Return the pace of each client: what it does itself, without waiting for servers and others."""
    worked: dict[int, dict[int, float]] = {}
    lost: dict[int, set[int]] = defaultdict(set)
    for client in clients:
        rounds: dict[int, float] = defaultdict(float)
        for span in client["spans"]:
            if span["kind"] != "train":
                continue
            if span["state"] in ("late", "dropped", "failed"):
                lost[client["number"]].add(span["round"])
            if span["state"] in ("training", "sending", "late"):
                rounds[span["round"]] += (span["to"] - span["from"]) / max(1, span.get("tasks", 1))
        worked[client["number"]] = rounds
    means = {number: sum(r.values()) / len(r) for number, r in worked.items() if r}
    middle = median(means.values()) if means else 0.0
    return {
        number: Pace(means.get(number, 0.0), means.get(number, 0.0) / middle if middle else 1.0, len(lost[number]))
        for number in worked
    }


def ordered(clients: Sequence[Mapping[str, Any]], pace: Mapping[int, Pace], by: Order) -> list[Mapping[str, Any]]:
    """Return the clients in the order of their rows."""
    if by == "name":
        return sorted(clients, key=lambda c: (c["name"], c["number"]))
    if by == "number":
        return sorted(clients, key=lambda c: int(c["number"]))
    nothing = Pace(0.0, 1.0)
    return sorted(
        clients,
        key=lambda c: (*_place(pace.get(c["number"], nothing)), c["number"]),
    )


def _place(pace: Pace) -> tuple[float, ...]:
    return (-pace.times if pace.straggles else 0.0, -pace.lost, -pace.seconds)


def slowest(clients: Sequence[Mapping[str, Any]], pace: Mapping[int, Pace]) -> str:
    """Return a sentence about who is slow."""
    at_work = [c for c in clients if pace.get(c["number"], Pace(0, 1)).seconds > 0]
    if not at_work:
        return "Nobody has worked in this span of time."
    slow = [c for c in at_work if pace[c["number"]].straggles]
    if not slow:
        return "All clients work at about the same pace."
    worst = max(slow, key=lambda c: pace[c["number"]].times)
    its = pace[worst["number"]]
    others = f"; {len(slow) - 1} more are slow" if len(slow) > 1 else ""
    work = f"{format_seconds(its.seconds)} of work a round, {its.times:.1f} times the median"
    return f"{worst['name']} is slow: {work}{others}."


def timeline(
    rows: Sequence[Mapping[str, Any]], begin: float, end: float, pace: Mapping[int, Pace], summary: str
) -> Chart:
    """Return the spans of these clients, a row each, from the top down."""
    labels = []
    for row in rows:
        its = pace.get(row["number"])
        note = f"  {its.times:.1f}×" if its is not None and its.straggles else ""
        labels.append(f"{row['name']}{note}")
    data: list[list[float]] = []
    table: list[list[Cell]] = []
    for place, row in enumerate(rows):
        for span in row["spans"]:
            if span["to"] <= begin or span["from"] >= end:
                continue
            state = state_of(span)
            data.append([place, 1000 * span["from"], 1000 * span["to"], PLACES.get(state, 0), span["round"]])
            table.append([row["number"], row["name"], state, span["round"], span["from"], span["to"]])
    options: Options = {
        "animation": False,
        "grid": {"left": "fn:labelWidth", "right": 16, "top": 6, "bottom": 26},
        "xAxis": {
            "type": "time",
            "min": round(1000 * begin),
            "max": round(1000 * end),
            "axisLabel": {"formatter": "fn:clock", "hideOverlap": True},
            "splitLine": {"show": True},
        },
        "yAxis": {
            "type": "category",
            "data": labels,
            "inverse": True,
            "axisTick": {"show": False},
            "axisLine": {"show": False},
            "splitLine": {"show": True, "interval": 0},
            "triggerEvent": True,
            "axisLabel": {"interval": 0, "formatter": "fn:client"},
        },
        "tooltip": {"trigger": "item", "confine": True},
        "legend": {"show": False},
        "series": [
            {
                "id": "spans",
                "type": "custom",
                "renderItem": "fn:span",
                "encode": {"x": [1, 2], "y": 0},
                "clip": True,
                "progressive": 0,
                "states": [label for _, label, _ in STATES],
                "colours": [colour for _, _, colour in STATES],
            }
        ],
    }
    empty = None if data else "No client has worked in this span of time."
    columns = ("number", "client", "state", "round", "from", "to")
    return Chart("timeline", "Clients over time", options, {"spans": data}, columns, table, summary, empty)


def state_of(span: Mapping[str, Any]) -> str:
    """Return the state of a span as the picture has it: scoring has a colour of its own."""
    return "evaluating" if span["kind"] == "evaluate" and span["state"] == "training" else str(span["state"])


def window(seconds: Sequence[float | None], rounds: int) -> float:
    """Return how many seconds the last ``rounds`` rounds took, at least 5."""
    return max(5.0, sum(s for s in seconds[-rounds:] if s))
