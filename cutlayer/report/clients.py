"""Charts of the clients: how well the model serves each of them, and which labels each of them holds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cutlayer.report import style
from cutlayer.report.runs import AnyRun, Partition, Run
from cutlayer.report.units import format_count, format_share

NAMED = 24  # up to here every client has a row of its own
BLUES = LinearSegmentedColormap.from_list("samples", ["#ffffff", "#9ecae9", "#0072b2", "#003a5c"])


def client_accuracy(run: AnyRun) -> Figure | None:
    """Accuracy of each client on its own test split: over the rounds, and at the last round one by one."""
    last = [(each, each.last_client_round) for each in run.runs]
    pooled = [
        (name, accuracy) for _, line in last if line is not None for name, accuracy in line.client_accuracy.items()
    ]
    if not pooled:
        return None
    rows = _rows(pooled)
    if len(pooled) == 1:
        made = style.figure(2.6)
        _over_rounds(made.subplots(), run)
        return made
    named = len(rows) <= NAMED
    made = style.figure(2.5 + (0.75 + 0.21 * len(rows) if named else 1.75))
    ratios = [2.1, 0.45 + 0.21 * len(rows)] if named else [2.1, 1.3]
    upper, lower = made.subplots(2, 1, height_ratios=ratios)
    style.quiet(lower, grid="x" if named else "y")
    _over_rounds(upper, run)
    numbers = sorted({line.number for _, line in last if line is not None})
    when = f"round {numbers[0]}" if len(numbers) == 1 else "the last round"
    if named:
        _one_by_one(lower, rows)
        style.title(lower, f"Each client at {when}")
    else:
        accuracies = [accuracy for _, accuracy in pooled]
        _histogram(lower, accuracies)
        style.title(lower, f"All {_how_many(run, len(rows))} at {when}: median and middle half")
    style.share_axis(lower, "x")
    style.share_limits(lower, [accuracy for _, accuracy in pooled], "x")
    style.x_label(lower, "accuracy on the client's own test split")
    return made


def partition(run: AnyRun) -> Figure | None:
    """Clients × labels: circles with areas proportional to samples, or a heat map where there are many of either."""
    held = run.partition
    if held is None or not held.classes or not any(sum(client.counts) for client in held.clients):
        return None
    counts = np.array([client.counts for client in held.clients], dtype=float)
    names = [client.name for client in held.clients]
    circles = len(names) <= 30 and len(held.classes) <= 25
    order = np.arange(len(names))
    if len(names) > 60:  # neighbours that resemble each other make a picture; in order of number it is noise
        order = np.lexsort((-counts.max(axis=1), counts.argmax(axis=1)))
    height = min(max(0.24 * len(names), 0.5), 5.6) + 1.15 if circles else min(max(0.05 * len(names) + 1.6, 2.8), 5.6)
    made = style.figure(height)
    main, side = made.subplots(1, 2, sharey=True, width_ratios=[4.4, 1])
    for axes in (main, side):
        style.quiet(axes, grid=None if axes is main else "x")
    if circles:
        _circles(main, counts)
    else:
        image = main.imshow(counts[order], aspect="auto", cmap=BLUES, vmin=0, interpolation="nearest")
        bar = made.colorbar(image, ax=[main, side], location="bottom", shrink=0.5, aspect=35, pad=0.02)
        bar.set_label("training samples of the label at the client", fontsize=8, color=style.MUTED)
        bar.ax.tick_params(labelsize=8, colors=style.MUTED, length=2)
        bar.outline.set_visible(False)
    style.title(main, f"Who holds which labels, {held.scheme}" if held.scheme else "Who holds which labels")
    largest = f"label (largest circle: {format_count(counts.max())} samples)" if circles else "label"
    style.x_label(main, largest)
    _class_axis(main, held)
    _client_axis(main, names, order, circles)
    totals = counts.sum(axis=1)[order]
    side.barh(np.arange(len(names)), totals, height=0.62 if circles else 1.0, color="#9aa4ae")
    side.set_xlim(0, 1.08 * totals.max())
    side.xaxis.set_major_locator(MaxNLocator(nbins=2, integer=True))
    side.tick_params(axis="y", length=0, labelleft=False)
    side.spines["left"].set_visible(False)
    style.x_label(side, "samples")
    return made


def _rows(pooled: Sequence[tuple[str, float]]) -> list[tuple[str, list[float]]]:
    """Accuracies by client name (several with several seeds), worst mean last drawn, so that it stands on top."""
    by_name: dict[str, list[float]] = {}
    for name, accuracy in pooled:
        by_name.setdefault(name, []).append(accuracy)
    return sorted(by_name.items(), key=lambda item: -float(np.mean(item[1])))


def _how_many(run: AnyRun, clients: int) -> str:
    return f"{clients} clients" + (f" × {len(run.runs)} seeds" if len(run.runs) > 1 else "")


def _over_rounds(axes: Axes, run: AnyRun) -> None:
    """Median and quantiles over the clients; single lines where there are few."""
    style.quiet(axes)
    lines = [(r.number, sorted(r.client_accuracy.values())) for r in _pooled_rounds(run)]
    x = [number for number, _ in lines]
    few = max(len(values) for _, values in lines) <= 12 and isinstance(run, Run)
    style.title(axes, "Accuracy per client over the rounds")
    low, q1, median, q3, high = (
        [float(np.quantile(values, q)) for _, values in lines] for q in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    marker = "o" if len(x) == 1 else None
    if few and isinstance(run, Run):
        alone = max(len(values) for _, values in lines) == 1
        look: dict[str, Any] = {"color": style.colour(0) if alone else "#8a94a0", "linewidth": 1.8 if alone else 0.9}
        for name in dict.fromkeys(name for line in run.rounds for name in line.client_accuracy):
            mine = [(line.number, line.client_accuracy[name]) for line in run.rounds if name in line.client_accuracy]
            axes.plot(
                *zip(*mine, strict=True),
                marker=marker,
                markersize=3,
                label=style.plain(f"client {name}"),
                **look,
            )
    else:
        axes.fill_between(x, low, high, color=style.colour(0), alpha=0.12, linewidth=0, label="worst to best")
        axes.fill_between(x, q1, q3, color=style.colour(0), alpha=0.28, linewidth=0, label="middle half")
    if len(lines[-1][1]) > 1:
        axes.plot(x, median, color=style.colour(0), linewidth=1.8, marker=marker, markersize=4, label="median")
    style.share_limits(axes, low + high)
    style.share_axis(axes)
    style.whole_ticks(axes)
    style.x_label(axes, "round")
    if len(lines[-1][1]) == 1:
        style.label_ends(axes, [(x[-1], median[-1], format_share(median[-1]), style.INK)])
        return
    ends = [(low, "worst"), (median, "median"), (high, "best")]
    if not few:
        ends[1:2] = [(q1, "25\u202f%:"), (median, "median"), (q3, "75\u202f%:")]
    shades = {"median": style.colour(0)}
    style.label_ends(
        axes, [(x[-1], y[-1], f"{n} {format_share(y[-1])}", shades.get(n, style.MUTED)) for y, n in ends], size=8.5
    )


class _Pooled:
    """The client accuracies of one round, over all seeds."""

    def __init__(self, number: int, client_accuracy: dict[str, float]) -> None:
        self.number = number
        self.client_accuracy = client_accuracy


def _pooled_rounds(run: AnyRun) -> list[_Pooled]:
    pooled: dict[int, dict[str, float]] = {}
    seen: dict[int, int] = {}
    for index, each in enumerate(run.runs):
        for line in each.rounds:
            if line.client_accuracy:
                seen[line.number] = seen.get(line.number, 0) + 1
                values = pooled.setdefault(line.number, {})
                values.update({f"{index}/{name}": accuracy for name, accuracy in line.client_accuracy.items()})
    common = sorted(number for number, count in seen.items() if count == len(run.runs)) or sorted(seen)
    return [_Pooled(number, pooled[number]) for number in common]


def _one_by_one(axes: Axes, rows: Sequence[tuple[str, list[float]]]) -> None:
    for y, (_, accuracies) in enumerate(rows):
        axes.plot([min(accuracies), max(accuracies)], [y, y], color="#b9d5e6", linewidth=2, solid_capstyle="round")
        axes.plot(accuracies, [y] * len(accuracies), "o", color=style.colour(0), markersize=5, markeredgewidth=0)
    axes.set_yticks(range(len(rows)), [style.plain(style.short(name)) for name, _ in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    style.y_label(axes, "client")


def _histogram(axes: Axes, accuracies: Sequence[float]) -> None:
    """How many clients reach which accuracy; the middle half shaded, the median as a line."""
    q1, median, q3 = np.quantile(accuracies, [0.25, 0.5, 0.75])
    axes.axvspan(q1, q3, color=style.colour(0), alpha=0.12, linewidth=0, zorder=0)
    axes.hist(accuracies, bins=min(40, 8 + len(accuracies) // 8), color=style.colour(0), alpha=0.75, rwidth=0.9)
    axes.axvline(median, color=style.INK, linewidth=1.4)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    style.y_label(axes, "clients")


def _circles(axes: Axes, counts: np.ndarray) -> None:
    rows, columns = counts.shape
    y, x = np.mgrid[0:rows, 0:columns]
    room = min(0.22 * 72, style.WIDTH * 0.62 * 72 / columns)  # points a circle may be wide
    axes.scatter(x.ravel(), y.ravel(), s=room**2 * (counts / counts.max()).ravel(), color=style.colour(0), linewidths=0)
    axes.set_xlim(-0.6, columns - 0.4)
    axes.set_ylim(rows - 0.4, -0.6)
    for row in range(rows):
        axes.axhline(row, color=style.GRID, linewidth=0.7, zorder=0)


def _class_axis(axes: Axes, held: Partition) -> None:
    texts = [style.plain(style.short(name, 14)) for name in held.classes]
    widest = max(len(text) for text in texts)
    room = 52 // (widest + 1) if len(texts) > 25 else 25  # labels that fit; up to 25 are all written, aslant if need be
    at = list(range(0, len(texts), -(-len(texts) // max(room, 4))))
    flat = (widest + 1) * len(at) <= 62
    axes.set_xticks(
        at,
        [texts[index] for index in at],
        rotation=0 if flat else 45,
        ha="center" if flat else "right",
        rotation_mode="anchor",
    )
    axes.tick_params(axis="x", length=0, labelsize=8.5)


def _client_axis(axes: Axes, names: Sequence[str], order: np.ndarray, circles: bool) -> None:
    if circles:
        axes.set_yticks(range(len(names)), [style.plain(style.short(name)) for name in names])
        axes.tick_params(axis="y", length=0)
    elif len(names) > 60:
        axes.set_yticks([])
    else:
        at = list(range(0, len(names), max(1, -(-len(names) // 20))))
        axes.set_yticks(at, [style.plain(style.short(names[order[index]])) for index in at])
    style.y_label(axes, "client" if len(names) <= 60 else f"{len(names)} clients, sorted by largest label")
    axes.spines["left"].set_visible(False)
