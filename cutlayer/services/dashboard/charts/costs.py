"""What a run costs: bytes up and down, and where the seconds of a round go."""

from __future__ import annotations

from cutlayer.report.units import byte_scale, format_bytes, format_seconds
from cutlayer.services.dashboard.charts.chart import COLOURS, Cell, Chart, Options, axis, frame, rounds_axis
from cutlayer.services.dashboard.charts.curves import WAITING, Scene, seconds_scale

PHASES = (
    ("client_seconds", "clients compute", COLOURS[0]),
    ("server_seconds", "split servers", COLOURS[1]),
    ("federated_seconds", "federated server", COLOURS[2]),
    ("evaluation_seconds", "evaluation", COLOURS[3]),
)


def traffic(scene: Scene) -> Chart:
    """Bytes up and down of each round, stacked."""
    history = scene.history
    ups, downs = history.column("bytes_up"), history.column("bytes_down")
    rows: list[list[Cell]] = [[r, u or 0, d or 0] for r, u, d in zip(history.rounds, ups, downs, strict=True)]
    divisor, unit = byte_scale(float(row[1] or 0) + float(row[2] or 0) for row in rows)
    data = {
        "up": [[row[0], float(row[1] or 0) / divisor] for row in rows],
        "down": [[row[0], float(row[2] or 0) / divisor] for row in rows],
    }
    labels = {"up": "up, from the clients", "down": "down, to the clients"}
    options = frame(_bars_axis(), axis(unit, min=0), legend=list(labels.values()))
    options["series"] = [_bar(id, label, COLOURS[n], "bytes") for n, (id, label) in enumerate(labels.items())]
    up, down = history.newest("total_bytes_up"), history.newest("total_bytes_down")
    summary = WAITING
    if up is not None and down is not None:
        summary = f"{format_bytes(up)} up and {format_bytes(down)} down so far."
    columns = ("round", "bytes_up", "bytes_down")
    empty = None if rows else WAITING
    return Chart("traffic", "Bytes per round", options, data, columns, rows, summary, empty, dict.fromkeys(data, unit))


def phases(scene: Scene) -> Chart:
    """Where the seconds of each round went."""
    history = scene.history
    columns = [history.column(key) for key, _, _ in PHASES]
    rows: list[list[Cell]] = [
        [r, *(value or 0.0 for value in values)] for r, *values in zip(history.rounds, *columns, strict=True)
    ]
    divisor, unit = seconds_scale([sum(float(cell or 0) for cell in row[1:]) for row in rows])
    data = {key: [[row[0], float(row[n + 1] or 0) / divisor] for row in rows] for n, (key, _, _) in enumerate(PHASES)}
    options = frame(_bars_axis(), axis(unit, min=0), legend=[label for _, label, _ in PHASES])
    options["series"] = [_bar(key, label, colour, "seconds") for key, label, colour in PHASES]
    summary = WAITING
    if rows:
        total = sum(float(cell or 0) for cell in rows[-1][1:])
        most = max(range(len(PHASES)), key=lambda n: float(rows[-1][n + 1] or 0))
        summary = f"Round {rows[-1][0]} took {format_seconds(total)}, most of it: {PHASES[most][1]}."
    names = ("round", *(key for key, _, _ in PHASES))
    empty = None if rows else WAITING
    return Chart("phases", "Time per round", options, data, names, rows, summary, empty, dict.fromkeys(data, unit))


def _bars_axis() -> Options:
    return {**rounds_axis(), "min": "fn:barMin", "max": "fn:barMax", "axisLabel": {"formatter": "fn:whole"}}


def _bar(id: str, name: str, colour: str, stack: str) -> Options:
    return {
        "id": id,
        "name": name,
        "type": "bar",
        "stack": stack,
        "color": colour,
        "barMaxWidth": 28,
        "barMinWidth": 1,
        "large": False,
        "emphasis": {"disabled": True},
    }
