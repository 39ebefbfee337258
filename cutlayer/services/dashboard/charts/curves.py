"""Loss and accuracy: of the run, of each client while they are few, else as a band; and against bytes and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cutlayer.report.units import byte_scale, format_bytes, format_count, format_number, format_share, time_scale
from cutlayer.services.dashboard.charts.chart import (
    COLOURS,
    MUTED,
    Cell,
    Chart,
    Options,
    axis,
    frame,
    line,
    rounds_axis,
    shares,
)
from cutlayer.services.dashboard.history import History

WAITING = "Nothing yet: the first point comes when round 1 is done."
HIGHLIGHTS = tuple(COLOURS[n] for n in (3, 6, 4, 5, 7))


@dataclass(frozen=True)
class Scene:
    """A run as its charts see it: figures, names of clients by number, and the clients that stand out."""

    history: History
    names: Mapping[int, str] = field(default_factory=dict)
    highlighted: tuple[int, ...] = ()

    def name(self, number: int) -> str:
        """Return what a client is called."""
        return self.names.get(number) or f"client {number}"


def loss(scene: Scene) -> Chart:
    """Training loss, test losses where there are any, and the clients' training losses."""
    history = scene.history
    now = history.newest("loss")
    shown = [
        ("loss", "training loss", COLOURS[0]),
        ("test_loss", "global test set", COLOURS[1]),
        ("own_loss", "clients' own test data", COLOURS[2]),
    ]
    summary = f"Training loss {format_number(now)} after round {history.last}." if now is not None else WAITING
    return _curves(scene, "loss", "Loss per round", shown, "client_loss", "number", summary)


def accuracy(scene: Scene) -> Chart:
    """Accuracy on the global test set and on the clients' own test data."""
    history = scene.history
    now, best = history.newest(history.accuracy), history.best()
    shown = [
        ("test_accuracy", "global test set", COLOURS[0]),
        ("own_accuracy", "clients' own test data", COLOURS[1]),
    ]
    summary = "No round has been scored yet."
    if now is not None and best is not None:
        summary = f"Accuracy {format_share(now)} now, at best {format_share(best[0])} after round {best[1]}."
    return _curves(scene, "accuracy", "Accuracy per round", shown, "client_accuracy", "share", summary)


def _curves(
    scene: Scene, name: str, title: str, shown: Sequence[tuple[str, str, str]], per_client: str, unit: str, summary: str
) -> Chart:
    history = scene.history
    key = per_client.removeprefix("client_")
    data: dict[str, list[list[float]]] = {}
    series: list[Options] = []
    legend: list[str] = []
    band = history.bands.get(per_client, {})
    spread = len(scene.names) > len(history.clients) and any(v is not None for v in band.get("median", ()))
    if spread:
        series += _band(history, band, data)
        legend += ["clients: middle half", "clients: all"]
    for number in history.clients:
        if number in scene.highlighted or not spread:
            points = history.of_client(number, key)
            if points:
                id = f"client-{number}"
                data[id] = points
                series.append(_client(scene, number, id, len(points) < 3))
                if number in scene.highlighted:
                    legend.append(scene.name(number))
    for id, label, colour in shown:
        points = history.pairs(id)
        if points:
            data[id] = points
            series.append(line(id, label, colour, lineStyle={"width": 2.5}, z=5, showSymbol=len(points) < 3))
            legend.append(label)
    y = shares() if unit == "share" else axis("", scale=True)
    options = frame(rounds_axis(), y, legend=_ordered(legend, shown))
    options["series"] = series
    columns, rows = _table(scene, shown, per_client, key)
    empty = None if any(data.values()) else (WAITING if not history.rounds else summary)
    return Chart(name, title, options, data, columns, rows, summary, empty, dict.fromkeys(data, unit))


def _ordered(legend: Sequence[str], shown: Sequence[tuple[str, str, str]]) -> list[str]:
    own = [label for _, label, _ in shown if label in legend]
    return own + [label for label in legend if label not in own]


def _client(scene: Scene, number: int, id: str, lone: bool) -> Options:
    if number in scene.highlighted:
        colour = HIGHLIGHTS[scene.highlighted.index(number) % len(HIGHLIGHTS)]
        return line(id, scene.name(number), colour, z=4, lineStyle={"width": 2.5, "type": [7, 3]}, showSymbol=lone)
    style = {"width": 1, "opacity": 0.55}
    return line(id, scene.name(number), MUTED, z=2, lineStyle=style, showSymbol=lone, symbolSize=4)


def _band(
    history: History, band: Mapping[str, Sequence[float | None]], data: dict[str, list[list[float]]]
) -> list[Options]:
    """Return two stacked bands; of each the lower edge is a line that nobody sees."""
    found: list[Options] = []
    for id, low, high, label, colour, opacity in (
        ("all", "min", "max", "clients: all", MUTED, 0.14),
        ("half", "q25", "q75", "clients: middle half", COLOURS[5], 0.3),
    ):
        edges = [
            (r, a, b)
            for r, a, b in zip(history.rounds, band.get(low, ()), band.get(high, ()), strict=False)
            if a is not None and b is not None
        ]
        data[f"{id}-low"] = [[r, a] for r, a, _ in edges]
        data[f"{id}-high"] = [[r, b - a] for r, a, b in edges]
        quiet = {"lineStyle": {"opacity": 0}, "stack": id, "stackStrategy": "all", "silent": True, "z": 1}
        found.append(line(f"{id}-low", f"{label} (lower edge)", MUTED, **quiet))
        found.append(line(f"{id}-high", label, colour, areaStyle={"opacity": opacity}, **quiet))
    return found


def _table(
    scene: Scene, shown: Sequence[tuple[str, str, str]], per_client: str, key: str
) -> tuple[list[str], list[list[Cell]]]:
    history = scene.history
    band = history.bands.get(per_client, {})
    columns = ["round", *(id for id, _, _ in shown), *(f"{per_client}_{q}" for q in band)]
    columns += [f"{per_client} {scene.name(number)}" for number in history.clients]
    parts = [history.column(id) for id, _, _ in shown] + [list(column) for column in band.values()]
    parts += [list(found.get(key) or [None] * len(history.rounds)) for found in history.clients.values()]
    return columns, [[r, *values] for r, *values in zip(history.rounds, *parts, strict=False)]


def accuracy_against_bytes(scene: Scene) -> Chart:
    """Accuracy against all bytes so far, both directions."""
    history = scene.history
    key = history.accuracy
    ups, downs = history.column("total_bytes_up"), history.column("total_bytes_down")
    rows: list[list[Cell]] = [
        [r, a + b, v]
        for r, a, b, v in zip(history.rounds, ups, downs, history.column(key), strict=True)
        if a is not None and b is not None and v is not None
    ]
    divisor, unit = byte_scale(float(row[1] or 0) for row in rows)
    points = [[float(row[1] or 0) / divisor, row[2]] for row in rows]
    x = axis(f"bytes so far ({unit})", nameLocation="middle", nameGap=26, min=0, splitLine={"show": False})
    options = frame(x, shares())
    options["series"] = [line("accuracy", "accuracy", COLOURS[0], showSymbol=len(points) < 60, symbolSize=6)]
    summary = "No round has been scored yet."
    if rows:
        summary = f"{format_share(float(rows[-1][2] or 0))} for {format_bytes(float(rows[-1][1] or 0))}."
    return Chart(
        "accuracy-bytes",
        "Accuracy against bytes",
        options,
        {"accuracy": points},
        ("round", "bytes", key),
        rows,
        summary,
        None if rows else summary,
        {"accuracy": "share"},
    )


def throughput(scene: Scene) -> Chart:
    """Samples a second, over the seconds of each round without its evaluation."""
    history = scene.history
    rows: list[list[Cell]] = [
        [r, n, s, n / s]
        for r, n, s in zip(history.rounds, history.column("samples"), history.column("seconds"), strict=True)
        if n is not None and s
    ]
    points = [[row[0], row[3]] for row in rows]
    options = frame(rounds_axis(), axis("samples/s", min=0, axisLabel={"formatter": "fn:grouped"}))
    options["series"] = [line("rate", "samples a second", COLOURS[2], showSymbol=len(points) < 3)]
    summary = f"{format_count(float(rows[-1][3] or 0))} samples a second in round {rows[-1][0]}." if rows else WAITING
    columns = ("round", "samples", "seconds", "samples_per_second")
    return Chart(
        "throughput", "Samples per second", options, {"rate": points}, columns, rows, summary,
        None if rows else WAITING, {"rate": "samples/s"},
    )  # fmt: skip


def seconds_scale(values: Sequence[float]) -> tuple[float, str]:
    """Return the divisor and the short name of the unit that suits these seconds."""
    divisor, name = time_scale(values)
    return divisor, {"hours": "h", "minutes": "min", "seconds": "s", "milliseconds": "ms"}[name]
