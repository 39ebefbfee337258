"""The charts of a run, as PNG files in its folder."""

from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from cutlayer.report import style
from cutlayer.report.clients import client_accuracy, partition
from cutlayer.report.costs import bytes_by_kind, time_breakdown
from cutlayer.report.progress import accuracy_against_bytes, accuracy_and_loss
from cutlayer.report.runs import AnyRun, load_run

# File name without ".png" -> the function that draws it; None where the run holds nothing to draw.
CHARTS: Mapping[str, Callable[[AnyRun], Figure | None]] = {
    "accuracy_and_loss": accuracy_and_loss,
    "accuracy_against_bytes": accuracy_against_bytes,
    "client_accuracy": client_accuracy,
    "bytes_by_kind": bytes_by_kind,
    "time_breakdown": time_breakdown,
    "partition": partition,
}


def write_plots(run_folder: str | Path) -> list[Path]:
    """Write every chart for which the run has data, and return the files.

    Raises RunFolderError if the folder holds no run.
    """
    run = load_run(run_folder)
    return list(write_charts(run).values())


def write_charts(run: AnyRun) -> dict[str, Path]:
    """The charts of `run` in its folder, by name."""
    drawn = ((name, draw(run)) for name, draw in CHARTS.items())
    return {name: style.save(made, run.path / f"{name}.png") for name, made in drawn if made is not None}
