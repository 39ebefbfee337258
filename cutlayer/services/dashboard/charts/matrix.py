"""What the global model takes for what: the confusion matrix, and the accuracy of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cutlayer.report.units import format_share
from cutlayer.services.dashboard.charts.chart import COLOURS, Cell, Chart, Options, axis, frame

MOST = 40
"""Classes that are shown at once: those that are mistaken most often."""
WAITING = "Nothing yet: the first round that is scored brings the confusion matrix."


def classes(evaluation: Mapping[str, Any] | None) -> list[str]:
    """Return the names of the classes, their numbers where they have none."""
    counts = (evaluation or {}).get("confusion") or []
    names = (evaluation or {}).get("classes") or ()
    return [str(names[n]) if n < len(names) else str(n) for n in range(len(counts))]


def most_mistaken(counts: Sequence[Sequence[int]], most: int = MOST) -> list[int]:
    """Return the classes that are shown, in their own order."""
    if len(counts) <= most:
        return list(range(len(counts)))
    wrong = [sum(row) - row[n] for n, row in enumerate(counts)]
    return sorted(sorted(range(len(counts)), key=lambda n: (-wrong[n], n))[:most])


def confusion(evaluation: Mapping[str, Any] | None) -> Chart:
    """Return the matrix: a row for each true class, shares of the row; each cell with its count."""
    counts = (evaluation or {}).get("confusion") or []
    names = classes(evaluation)
    shown = most_mistaken(counts)
    points: list[Any] = []
    for y, true in enumerate(shown):
        total = sum(counts[true])
        for x, taken in enumerate(shown):
            share = counts[true][taken] / total if total else 0.0
            cell = [x, y, share, counts[true][taken]]
            points.append({"value": cell, "label": {"color": "var(--on-heat)"}} if share > 0.68 else cell)
    rows: list[list[Cell]] = [[names[n], *row] for n, row in enumerate(counts)]
    labels = [names[n] for n in shown]
    few = len(shown) <= 12
    ticks = {"hideOverlap": True, "width": 72, "overflow": "truncate"}
    wide = max((len(label) for label in labels), default=0) > 4
    options: Options = {
        "animation": False,
        "grid": {"left": "fn:namedWidth", "right": 8, "top": 8, "bottom": 104 if wide else 46},
        "xAxis": {
            "type": "category",
            "data": labels,
            "name": "predicted class",
            "nameLocation": "middle",
            "nameGap": 82 if wide else 26,
            "axisLabel": {**ticks, "rotate": 45 if wide else 0},
            "axisTick": {"show": False},
        },
        "yAxis": {
            "type": "category",
            "data": labels,
            "inverse": True,
            "name": "true class",
            "nameLocation": "middle",
            "nameGap": "fn:nameGap",
            "axisLabel": {"formatter": "fn:client", "hideOverlap": True},
            "axisTick": {"show": False},
        },
        "tooltip": {"trigger": "item", "confine": True, "formatter": "fn:confusion"},
        "legend": {"show": False},
        "visualMap": {
            "show": False,
            "min": 0,
            "max": 1,
            "dimension": 2,
            "inRange": {"color": [f"var(--heat{n})" for n in range(5)]},
        },
        "series": [
            {
                "id": "cells",
                "type": "heatmap",
                "label": {"show": few, "formatter": "fn:count", "fontSize": 11, "color": "var(--ink)"},
                "itemStyle": {"borderWidth": 1, "borderColor": "var(--surface)"},
                "emphasis": {"disabled": True},
            }
        ],
    }
    summary = WAITING
    if counts:
        right = sum(row[n] for n, row in enumerate(counts))
        total = sum(map(sum, counts))
        summary = (
            f"{right} of {total} samples are classified correctly ({format_share(right / total if total else None)})."
        )
        pairs = [
            (counts[a][b], a, b) for a in range(len(counts)) for b in range(len(counts)) if a != b and counts[a][b]
        ]
        if pairs:
            times, true, taken = max(pairs, key=lambda p: (p[0], -p[1], -p[2]))
            summary += f" Most often mistaken: {names[true]} for {names[taken]}, {times} times."
        if len(shown) < len(counts):
            summary += f" Shown are the {len(shown)} classes of {len(counts)} that are mistaken most often."
    columns = ("true \\ predicted", *names)
    return Chart(
        "confusion", "Confusion matrix", options, {"cells": points}, columns, rows, summary, None if counts else WAITING
    )


def per_class(evaluation: Mapping[str, Any] | None) -> Chart:
    """Return the share of each class that is recognised, the worst first."""
    counts = (evaluation or {}).get("confusion") or []
    names = classes(evaluation)
    rows: list[list[Cell]] = [
        [names[n], row[n] / sum(row) if sum(row) else None, row[n], sum(row)] for n, row in enumerate(counts)
    ]
    known = sorted((row for row in rows if row[1] is not None), key=lambda row: (float(row[1] or 0), str(row[0])))[
        :MOST
    ]
    y = {
        "type": "category",
        "data": [row[0] for row in known],
        "inverse": True,
        "axisTick": {"show": False},
        "axisLabel": {"formatter": "fn:client"},
    }
    x = axis("", axisLabel={"formatter": "fn:share"}, min=0, max=1, interval=0.25)
    options = {**frame(x, y), "tooltip": {"trigger": "item", "confine": True}}
    options["grid"] = {
        **options["grid"],
        "top": 8,
        "right": 52,
        "bottom": 24,
        "left": "fn:labelWidth",
        "containLabel": False,
    }
    options["series"] = [
        {
            "id": "classes",
            "name": "recognised",
            "type": "bar",
            "color": COLOURS[0],
            "barMaxWidth": 18,
            "label": {"show": True, "position": "right", "formatter": "fn:shareLabel", "color": "var(--ink)"},
            "emphasis": {"disabled": True},
        }
    ]
    summary = WAITING
    if known:
        summary = f"Worst: {known[0][0]}, {format_share(float(known[0][1] or 0))} of it recognised."
        if len(known) < len(counts):
            summary += f" Shown are the {len(known)} worst of {len(counts)}."
    columns = ("class", "accuracy", "correct", "samples")
    return Chart(
        "classes", "Accuracy per class", options, {"classes": [row[1] for row in known]}, columns, rows, summary,
        None if known else WAITING, {"classes": "share"},
    )  # fmt: skip
