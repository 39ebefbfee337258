"""How every chart looks: colours that colour-blind people can tell apart, quiet axes, direct labels.

Figures are `Figure` objects with their own canvas; nothing here touches pyplot or matplotlib's global settings.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

WIDTH = 5.6  # inches; small, so that text stays readable on a telephone
DOTS_PER_INCH = 200
INK, MUTED, GRID, PAPER = "#1f2328", "#59636e", "#e4e7eb", "#ffffff"
# Okabe and Ito's set with the yellow darkened to read on white, in an order that keeps neighbours apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7a5195", "#56b4e9", "#b8860b", "#5c5c5c")
LINES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))  # after eight runs colours repeat, dashes differ


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def line_style(index: int) -> Any:
    return LINES[(index // len(COLOURS)) % len(LINES)]


def figure(height: float, width: float = WIDTH) -> Figure:
    """An empty white figure, sizes in inches."""
    made = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor=PAPER, layout="constrained")
    made.get_layout_engine().set(w_pad=0.09, h_pad=0.09)  # type: ignore[union-attr,call-arg]
    FigureCanvasAgg(made)
    return made


def save(made: Figure, path: Path) -> Path:
    """Write the figure as PNG; a reader never sees half a picture."""
    unfinished = path.with_name(path.name + ".part")
    made.savefig(unfinished, format="png", metadata={"Software": None})
    unfinished.replace(path)
    return path


def quiet(axes: Axes, *, grid: Literal["x", "y"] | None = "y") -> None:
    """Axes with a light grid across one axis and without a frame."""
    axes.set_facecolor(PAPER)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#b6bcc3")
    axes.tick_params(colors=MUTED, labelsize=9, length=3, color="#b6bcc3")
    axes.set_axisbelow(True)
    if grid:
        axes.grid(True, axis=grid, color=GRID, linewidth=0.8)


def title(axes: Axes, text: str) -> None:
    axes.set_title(plain(text), loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=9)


def x_label(axes: Axes, text: str) -> None:
    axes.set_xlabel(plain(text), fontsize=9, color=MUTED)


def y_label(axes: Axes, text: str) -> None:
    axes.set_ylabel(plain(text), fontsize=9, color=MUTED)


def share_axis(axes: Axes, which: str = "y") -> None:
    """Ticks of an accuracy in 0..1, written in per cent."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}\u202f%"))


def share_limits(axes: Axes, values: Sequence[float], which: str = "y") -> None:
    """Limits around accuracies: a small margin, never outside what an accuracy can be."""
    low, high = min(values), max(values)
    margin = max(0.06 * (high - low), 0.01)
    limits = (max(low - margin, -0.01), min(high + margin, 1.01))
    (axes.set_ylim if which == "y" else axes.set_xlim)(*limits)


def whole_ticks(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]))


def log_axis(axes: Axes) -> None:
    """A logarithmic x axis with plain numbers, 1, 2, 5 of each decade."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]], size: float = 9) -> None:
    """Write (x, y, text, colour) to the right of the axes, beside the ends of lines, moved apart where they collide.

    Call it last: it needs the final height and limits of the axes.
    """
    if not ends:
        return
    low, high = axes.get_ylim()
    whole = cast(Figure, axes.figure)
    whole.draw_without_rendering()
    height = whole.get_size_inches()[1] * axes.get_position().height
    lines = [plain(text).count("\n") + 1 for _, _, text, _ in ends]
    line = 1.35 * size / 72 / height  # one line of text, as a share of the axes
    scale = axes.transData + axes.transAxes.inverted()
    wanted = [float(scale.transform((0, min(max(y, low), high)))[1]) for _, y, _, _ in ends]
    order = sorted(range(len(ends)), key=lambda i: wanted[i])
    placed = within(spread([wanted[i] for i in order], sizes := [line * lines[i] for i in order]), sizes)
    for i, y in zip(order, placed, strict=True):
        axes.annotate(
            plain(ends[i][2]),
            xy=(1.0, wanted[i]),
            xycoords="axes fraction",
            xytext=(1.05, y),
            textcoords="axes fraction",
            fontsize=size,
            color=ends[i][3],
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": ends[i][3],
                "linewidth": 0.6,
                "alpha": 0.6,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )


def spread(wanted: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Positions near the ascending `wanted` such that intervals of the given sizes around them do not overlap."""
    blocks: list[list[float]] = []  # [sum of (wanted - offset), members, total size, start index]
    for index, (position, size) in enumerate(zip(wanted, sizes, strict=True)):
        blocks.append([position - size / 2, 1, size, index])
        while len(blocks) > 1:
            before, after = blocks[-2], blocks[-1]
            if before[0] / before[1] + before[2] <= after[0] / after[1]:
                break
            blocks[-2:] = [
                [before[0] + after[0] - after[1] * before[2], before[1] + after[1], before[2] + after[2], before[3]]
            ]
    placed = []
    for total, members, _, start in blocks:
        at = total / members
        for size in sizes[int(start) : int(start) + int(members)]:
            placed.append(at + size / 2)
            at += size
    return placed


def within(placed: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Ascending intervals moved into 0..1, the topmost first, without making them overlap."""
    moved, ceiling = list(placed), 1.0
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], ceiling - sizes[i] / 2)
        ceiling = moved[i] - sizes[i] / 2
    floor = 0.0
    for i in range(len(moved)):
        moved[i] = max(moved[i], floor + sizes[i] / 2)
        floor = moved[i] + sizes[i] / 2
    return moved


_FONT: list[FT2Font] = []


def plain(text: str) -> str:
    """`text` as matplotlib shows it literally: no mathematics, no control characters, no glyph that the font lacks."""
    if not _FONT:
        _FONT.append(font_manager.get_font(font_manager.findfont("DejaVu Sans")))
    shown = "".join(
        c if c in "\n\u202f" or (c.isprintable() and _FONT[0].get_char_index(ord(c))) else "□" for c in text
    )
    return shown.replace("$", r"\$")


def short(text: str, longest: int = 18) -> str:
    """`text` cut to `longest` characters, in the middle, on one line."""
    text = " ".join(text.split())
    keep = longest - 1
    return text if len(text) <= longest else f"{text[: keep - keep // 3]}…{text[len(text) - keep // 3 :]}"
