"""Charts of learning: accuracy and loss per round, accuracy against bytes, of one run or of several overlaid."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutlayer.report import style
from cutlayer.report.curves import Curve, over_bytes, over_rounds, over_seconds
from cutlayer.report.runs import AnyRun, Run, RunGroup
from cutlayer.report.units import byte_scale, format_number, format_share, time_scale

ACCURACY, TRAIN, TEST = style.colour(0), style.colour(1), style.colour(0)


def accuracy_and_loss(run: AnyRun) -> Figure | None:
    """Global test accuracy above, training and test loss below, against the round."""
    accuracy, train, test = (over_rounds(run, quantity) for quantity in ("test_accuracy", "loss", "test_loss"))
    if not (accuracy or train or test):
        return None
    made = style.figure(4.7 if accuracy and (train or test) else 2.8)
    panels = [name for name, there in (("accuracy", accuracy), ("loss", train or test)) if there]
    axes = made.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for panel, name in zip(axes, panels, strict=True):
        style.quiet(panel)
        if name == "accuracy":
            _accuracy_panel(panel, run, accuracy)
        else:
            _loss_panel(panel, [("training loss", train, TRAIN), ("test loss", test, TEST)])
    style.whole_ticks(axes[-1])
    style.x_label(axes[-1], "round")
    return made


def accuracy_against_bytes(run: AnyRun) -> Figure | None:
    """Global test accuracy against the bytes sent so far, up and down; nothing for a run that sent nothing."""
    curve = over_bytes(run)
    if not curve or curve.x[-1] == 0:
        return None
    made = style.figure(2.9)
    axes = made.subplots()
    style.quiet(axes)
    style.title(axes, "Test accuracy against communication")
    scale, unit = byte_scale(curve.x)
    _line(axes, curve, ACCURACY, scale=scale, seeds=[over_bytes(each) for each in _seeds(run)])
    _accuracy_axis(axes, [curve])
    style.x_label(axes, f"sent so far, up and down, all clients ({unit})")
    axes.set_xlim(left=-0.02 * curve.x[-1] / scale)
    style.label_ends(axes, [(curve.x[-1] / scale, curve.y[-1], _final(curve), ACCURACY)])
    return made


def overlaid_accuracy(runs: Sequence[AnyRun], labels: Sequence[str], target: float | None, against: str) -> Figure:
    """Accuracy of several runs `against` "round", "bytes" or "seconds", with the target as a horizontal line.

    A run that sends nothing has no place on an axis of bytes: its last accuracy is drawn as a dotted line.  Where the
    others differ by more than a factor of ten in what they send, the axis is logarithmic.
    """
    curves = [{"round": _by_round, "bytes": over_bytes, "seconds": over_seconds}[against](run) for run in runs]
    furthest = [x for curve in curves for x in curve.x]
    scale, unit = {"round": lambda _: (1.0, ""), "bytes": byte_scale, "seconds": time_scale}[against](furthest)
    lines = sum(_wrapped(label).count("\n") + 1 for label in labels) + (against == "bytes")
    made = style.figure(max(3.2, 0.175 * lines + 1.2), width=style.WIDTH + 0.9)
    axes = made.subplots()
    style.quiet(axes)
    of = {"round": "per round", "bytes": "against communication", "seconds": "against time"}[against]
    style.title(axes, f"Test accuracy {of}")
    ends = []
    for index, (curve, label) in enumerate(zip(curves, labels, strict=True)):
        if not curve:
            continue
        shade = style.colour(index)
        silent = against == "bytes" and curve.x[-1] == 0
        if silent:
            axes.axhline(curve.y[-1], color=shade, linestyle=":", linewidth=1.4, label=style.plain(label))
        else:
            _line(axes, curve, shade, scale=scale, dashes=style.line_style(index), label=label)
            axes.scatter([curve.x[-1] / scale], [curve.y[-1]], s=22, color=shade, zorder=3)
        note = "\n(sends nothing)" if silent else ""
        ends.append((curve.x[-1] / scale, curve.y[-1], f"{_wrapped(label)}{note}", shade))
    _accuracy_axis(axes, curves)
    if target is not None:
        axes.axhline(target, color=style.MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1.5)
        axes.annotate(
            f"target {format_share(target)}",
            xy=(1.0, target),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="top",
            xytext=(-2, -2),
            textcoords="offset points",
            fontsize=8,
            color=style.MUTED,
        )
    if against == "round":
        style.whole_ticks(axes)
    sent = "sent so far, up and down, all clients"
    totals = [curve.x[-1] for curve in curves if curve and curve.x[-1] > 0]
    if against == "bytes" and totals and max(totals) > 10 * min(totals):
        style.log_axis(axes)
    style.x_label(axes, {"round": "round", "bytes": f"{sent} ({unit})", "seconds": f"time so far ({unit})"}[against])
    style.label_ends(axes, ends, size=8.5)
    return made


def _by_round(run: AnyRun) -> Curve:
    return over_rounds(run, "test_accuracy")


def _accuracy_panel(axes: Axes, run: AnyRun, curve: Curve) -> None:
    several = f", mean ± standard deviation of {len(run.runs)} seeds" if isinstance(run, RunGroup) else ""
    style.title(axes, f"Test accuracy{several}")
    _line(axes, curve, ACCURACY, seeds=[_by_round(each) for each in _seeds(run)])
    _accuracy_axis(axes, [curve])
    if isinstance(run, Run) and (best := run.best_round) and best.number != curve.x[-1]:
        assert best.test_accuracy is not None
        axes.plot([best.number], [best.test_accuracy], "o", markersize=7, markerfacecolor="none", color=ACCURACY)
        axes.annotate(
            f"best {format_share(best.test_accuracy)}, round {best.number}",
            xy=(best.number, best.test_accuracy),
            xytext=(0, -13),
            textcoords="offset points",
            fontsize=8,
            color=style.MUTED,
            ha="right" if best.number > curve.x[-1] / 3 else "left",
        )
    style.label_ends(axes, [(curve.x[-1], curve.y[-1], _final(curve), ACCURACY)])


def _loss_panel(axes: Axes, named: Sequence[tuple[str, Curve, str]]) -> None:
    style.title(axes, "Loss")
    values = [y for _, curve, _ in named for y in curve.y]
    if min(values) > 0 and max(values) > 100 * min(values):
        axes.set_yscale("log")
    for _, curve, shade in named:
        if curve:
            _line(axes, curve, shade)
    if axes.get_yscale() == "linear":
        axes.set_ylim(bottom=min(0.0, min(values)))
    style.y_label(axes, "mean per sample")
    style.label_ends(
        axes,
        [
            (c.x[-1], c.y[-1], f"{name.removesuffix(' loss')} {format_number(c.y[-1], 3)}", s)
            for name, c, s in named
            if c
        ],
    )


def _line(
    axes: Axes,
    curve: Curve,
    shade: str,
    *,
    scale: float = 1.0,
    seeds: Sequence[Curve] = (),
    dashes: Any = "-",
    label: str = "",
) -> None:
    x = [each / scale for each in curve.x]
    for seed in seeds:
        axes.plot([each / scale for each in seed.x], seed.y, color=shade, linewidth=0.7, alpha=0.35)
    if any(curve.std):
        low = [y - s for y, s in zip(curve.y, curve.std, strict=True)]
        high = [y + s for y, s in zip(curve.y, curve.std, strict=True)]
        axes.fill_between(x, low, high, color=shade, alpha=0.15, linewidth=0)
    marker = "o" if len(x) <= 25 else ""
    axes.plot(
        x,
        curve.y,
        color=shade,
        linewidth=1.8,
        linestyle=dashes,
        label=style.plain(label) or None,
        marker=marker,
        markersize=3.2,
    )


def _accuracy_axis(axes: Axes, curves: Sequence[Curve]) -> None:
    spans = [each for curve in curves for y, s in zip(curve.y, curve.std, strict=True) for each in (y - s, y + s)]
    if spans:
        style.share_limits(axes, spans)
    style.share_axis(axes)


def _seeds(run: AnyRun) -> tuple[Run, ...]:
    return run.runs if isinstance(run, RunGroup) else ()


def _final(curve: Curve) -> str:
    spread = f"\n± {format_share(curve.std[-1])}" if curve.std[-1] else ""
    return f"{format_share(curve.y[-1])}{spread}"


def _wrapped(label: str, width: int = 26) -> str:
    """`label` broken at its commas into lines of about `width` characters."""
    lines: list[str] = []
    for part in style.short(label, 90).split(", "):
        if lines and len(lines[-1]) + len(part) + 2 <= width:
            lines[-1] += f", {part}"
        else:
            lines.append(style.short(part, 30))
    return ",\n".join(lines)
