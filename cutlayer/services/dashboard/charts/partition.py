"""Who holds how many samples.  Which classes they are, clients do not tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cutlayer.report.units import format_count
from cutlayer.services.dashboard.charts.chart import COLOURS, Cell, Chart, axis, frame

FEW = 30
"""Up to so many clients are named; above, they stand in the order of their size."""
WAITING = "Nothing yet: clients tell how many samples they have when the run begins."


def partition(members: Sequence[Mapping[str, Any]]) -> Chart:
    """Return the samples of each client, those to train on and those to test on."""
    known = [m for m in members if m.get("samples") is not None]
    rows: list[list[Cell]] = [[m["number"], m["name"], m["samples"], m.get("test_samples") or 0] for m in known]
    labels = {"train": "to train on", "test": "to test on"}
    few = len(rows) <= FEW
    shown = rows if few else sorted(rows, key=lambda row: -float(row[2] or 0))
    place: dict[str, Any] = {
        "type": "category",
        "data": [row[1] for row in shown],
        "axisTick": {"show": False},
        "axisLabel": {"formatter": "fn:client"},
    }
    amount = axis("samples" if not few else "", min=0, axisLabel={"formatter": "fn:count3"})
    if few:
        options = frame(amount, {**place, "inverse": True}, legend=list(labels.values()))
        options["grid"] |= {"left": "fn:labelWidth", "containLabel": False}
    else:
        place |= {"name": "clients, the largest first", "nameLocation": "middle", "nameGap": 12}
        options = frame({**place, "axisLabel": {"show": False}}, amount, legend=list(labels.values()))
    options["tooltip"] = {"trigger": "axis", "confine": True, "axisPointer": {"type": "shadow"}}
    options["series"] = [
        {
            "id": id,
            "name": label,
            "type": "bar",
            "stack": "samples",
            "color": COLOURS[n],
            "barMaxWidth": 22,
            "emphasis": {"disabled": True},
        }
        for n, (id, label) in enumerate(labels.items())
    ]
    data = {"train": [row[2] for row in shown], "test": [row[3] for row in shown]}
    summary = WAITING
    if rows:
        sizes = [float(row[2] or 0) for row in rows]
        total, low, high = sum(sizes), min(sizes), max(sizes)
        summary = (
            f"{format_count(total)} samples to train on at {len(rows)} clients, from {low:.0f} to {high:.0f} each."
        )
    columns = ("number", "client", "train_samples", "test_samples")
    units = dict.fromkeys(data, "samples")
    return Chart(
        "partition", "Samples per client", options, data, columns, rows, summary, None if rows else WAITING, units
    )
