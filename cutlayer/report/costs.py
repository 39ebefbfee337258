"""Charts of what a run cost: where the time went, and which messages the bytes were."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutlayer.report import style
from cutlayer.report.curves import byte_parts, time_parts, totals
from cutlayer.report.runs import AnyRun
from cutlayer.report.units import byte_scale, format_bytes, format_seconds, format_share, time_scale

# Fixed colours, so that two reports can be laid side by side.
COLOURS = {
    "client": style.colour(0),
    "server": style.colour(1),
    "federated": style.colour(2),
    "evaluation": style.colour(3),
    "checkpoint": style.colour(4),
    "activations": style.colour(0),
    "cut_gradients": style.colour(1),
    "updates": style.colour(2),
    "outputs": style.colour(3),
    "output_gradients": style.colour(4),
    "labels": style.colour(5),
    "headers": style.colour(7),
    "other": "#9aa4ae",
}


def time_breakdown(run: AnyRun) -> Figure | None:
    """Seconds by part: in total, and round by round."""
    parts = totals(run, time_parts)
    if not sum(parts.values()):
        return None
    made, upper, lower = _two_panels(len(parts), 1.9)
    scale, unit = time_scale(parts.values())
    mean = " (mean over the seeds)" if len(run.runs) > 1 else ""
    style.title(upper, f"Where the time went{mean}")
    _bars(upper, parts, scale, [f"{format_seconds(v)}, {_percent(v, parts)}" for v in parts.values()])
    style.x_label(upper, unit)
    rounds = [line for line in run.runs[0].rounds if line.seconds or line.time]
    per_round = {name: [time_parts(line).get(name, 0.0) for line in rounds] for name in parts}
    scale, unit = time_scale([sum(values) for values in zip(*per_round.values(), strict=True)])
    style.title(lower, "Seconds of each round" + (f" ({run.runs[0].path.name})" if len(run.runs) > 1 else ""))
    _stack(lower, [line.number for line in rounds], per_round, scale)
    style.y_label(lower, unit)
    style.x_label(lower, "round")
    return made


def bytes_by_kind(run: AnyRun) -> Figure | None:
    """Bytes by kind of message, and by direction, on one scale."""
    parts = totals(run, byte_parts)
    if not sum(parts.values()):
        return None
    ways = totals(run, lambda line: {"up": line.bytes_up, "down": line.bytes_down})
    ways = {name: ways[name] for name in ("up", "down")}
    made, upper, lower = _two_panels(len(parts), 0.75)
    scale, unit = byte_scale([*parts.values(), *ways.values()])
    mean = " (mean over the seeds)" if len(run.runs) > 1 else ""
    style.title(upper, f"What was sent{mean}")
    _bars(upper, parts, scale, [f"{format_bytes(v)}, {_percent(v, parts)}" for v in parts.values()])
    style.title(lower, "In which direction")
    shades = {"up": "#4d5966", "down": "#9aa4ae"}
    _bars(lower, ways, scale, [f"{format_bytes(v)}, {_percent(v, ways)}" for v in ways.values()], shades)
    widest = max(max(parts.values()), max(ways.values())) / scale
    for axes in (upper, lower):
        axes.set_xlim(0, 1.42 * widest)
    upper.tick_params(labelbottom=False)
    style.x_label(lower, unit)
    return made


def words(name: str) -> str:
    """`cut_gradients` -> `cut gradients`."""
    return name.replace("_", " ")


def _two_panels(bars: int, below: float) -> tuple[Figure, Axes, Axes]:
    above = 0.3 + 0.27 * bars
    made = style.figure(above + below + 1.35)
    upper, lower = made.subplots(2, 1, height_ratios=[above, below])
    style.quiet(upper, grid="x")
    style.quiet(lower, grid="y" if below > 1 else "x")
    return made, upper, lower


def _bars(
    axes: Axes, parts: Mapping[str, float], scale: float, texts: Sequence[str], shades: Mapping[str, str] = COLOURS
) -> None:
    values = [value / scale for value in parts.values()]
    axes.barh(range(len(parts)), values, height=0.62, color=[_shade(name, i, shades) for i, name in enumerate(parts)])
    for y, (value, text) in enumerate(zip(values, texts, strict=True)):
        axes.annotate(
            text, (value, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5, color=style.INK
        )
    axes.set_yticks(range(len(parts)), [style.plain(style.short(words(name))) for name in parts])
    axes.set_ylim(len(parts) - 0.45, -0.55)
    axes.set_xlim(0, 1.42 * max(values))  # room for the text beside the longest bar
    axes.tick_params(axis="y", length=0, labelcolor=style.INK)


def _stack(axes: Axes, rounds: Sequence[int], parts: Mapping[str, Sequence[float]], scale: float) -> None:
    base = np.zeros(len(rounds))
    for index, (name, values) in enumerate(parts.items()):
        height = np.asarray(values) / scale
        axes.bar(
            rounds,
            height,
            bottom=base,
            width=1.0 if len(rounds) > 60 else 0.78,
            color=_shade(name, index, COLOURS),
            linewidth=0,
            label=style.plain(words(name)),
        )
        base = base + height
    if len(rounds) == 1:
        axes.set_xlim(rounds[0] - 3, rounds[0] + 3)
    style.whole_ticks(axes)


def _shade(name: str, index: int, shades: Mapping[str, str]) -> str:
    return shades.get(name, style.colour(index + len(shades)))


def _percent(value: float, parts: Mapping[str, float]) -> str:
    return format_share(value / sum(parts.values()), 0 if value >= 0.0995 * sum(parts.values()) else 1)
