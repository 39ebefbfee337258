"""How a run shows on a terminal: a live bar with rich, plain lines elsewhere; both on standard error."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from cutlayer.config import Experiment
    from cutlayer.engines.prepare import Prepared
    from cutlayer.engines.running import Observer

PLAIN_INTERVAL = 5.0
"""Seconds between two plain lines at least; the last round always has one."""


def observer(quiet: bool) -> Observer:
    """Return what watches a run: silent, a live bar on a terminal, or plain lines."""
    from cutlayer.engines.running import Silent

    if quiet:
        return Silent()
    return Live() if sys.stderr.isatty() else Plain()


def batches_per_round(experiment: Experiment, prepared: Prepared) -> int:
    """Return how many batches a round has, about: fewer when not all clients take part."""
    sizes = [len(share.train) for share in prepared.setup.shares]
    if prepared.settings.recipe.pooled:
        sizes = [sum(sizes)]
    each = [math.ceil(n / experiment.batch_size) * experiment.local_epochs for n in sizes]
    return max(1, round(sum(each) * experiment.clients.fraction))


def headline(experiment: Experiment, prepared: Prepared, done: int) -> str:
    """Return one line that says what is about to run."""
    cut = " and ".join(prepared.model["cuts"])
    again = f", going on after round {done}" if done else ""
    return (
        f"{prepared.settings.recipe.name}: {experiment.model['name']} cut after {cut} ({prepared.model['method']}), "
        f"{prepared.setup.dataset.name}, {experiment.clients.count} clients, {prepared.partition['scheme']}, "
        f"{experiment.rounds} rounds, seed {experiment.seed}, {prepared.settings.device}{again}"
    )


def figures(metrics: Mapping[str, Any], total: int) -> str:
    """Return the figures of a round in words."""
    from cutlayer.report import format_bytes

    accuracy = metrics["test_accuracy"]
    shown = f"accuracy {accuracy:6.2%}" if accuracy is not None else "not evaluated  "
    return (
        f"loss {metrics['loss']:.4f}  {shown}  up {format_bytes(metrics['bytes_up'])}  "
        f"down {format_bytes(metrics['bytes_down'])}  total {format_bytes(total)}"
    )


class Plain:
    """Plain lines for logs and pipes."""

    def __init__(self) -> None:
        self._total = 0
        self._rounds = 0
        self._shown = 0.0

    def started(self, experiment: Experiment, prepared: Prepared, done: int) -> None:
        """Print what runs."""
        self._rounds, self._total = experiment.rounds, 0
        print(headline(experiment, prepared, done), file=sys.stderr, flush=True)

    def batch(self, round_number: int, batches: int) -> None:
        """Print nothing."""

    def round(self, metrics: Mapping[str, Any]) -> None:
        """Print the round's figures, unless the last line is very young."""
        self._total += metrics["bytes_up"] + metrics["bytes_down"]
        last = metrics["round"] == self._rounds
        if last or time.monotonic() - self._shown >= PLAIN_INTERVAL:
            self._shown = time.monotonic()
            line = f"round {metrics['round']}/{self._rounds}  {figures(metrics, self._total)}"
            print(line, file=sys.stderr, flush=True)

    def finished(self) -> None:
        """Print nothing."""


class Live:
    """A bar over all batches of the run, with the figures of the last round."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._total = 0

    def started(self, experiment: Experiment, prepared: Prepared, done: int) -> None:
        """Print what runs and open the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        console.print(headline(experiment, prepared, done), highlight=False, markup=False)
        self._per_round = batches_per_round(experiment, prepared)
        self._rounds, self._batches, self._total = experiment.rounds, 0, 0
        self._bar = Progress(
            TextColumn("round"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}", markup=False),
            TimeRemainingColumn(compact=True), console=console, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=self._rounds, completed=done)
        self._bar.start()

    def batch(self, round_number: int, batches: int) -> None:
        """Move the bar."""
        self._batches += batches
        if self._bar is not None and self._task is not None:
            share = min(self._batches / self._per_round, 0.999)
            self._bar.update(self._task, completed=int((round_number - 1 + share) * 1000) / 1000)

    def round(self, metrics: Mapping[str, Any]) -> None:
        """Show the round's figures."""
        self._batches = 0
        self._total += metrics["bytes_up"] + metrics["bytes_down"]
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=metrics["round"], description=figures(metrics, self._total))

    def finished(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
