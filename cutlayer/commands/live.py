"""How a run on services shows on a terminal, in the look of ``cutlayer run``: a live bar, or plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from cutlayer.commands.options import note
from cutlayer.terminal import PLAIN_INTERVAL, figures

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from cutlayer.services.api import Backend
    from cutlayer.services.protocol import EventView, RunView

ENDED = ("done", "failed", "cancelled")


class View(Protocol):
    """Is told how a run goes."""

    def opened(self, run: RunView) -> None: ...

    def event(self, event: EventView) -> None: ...

    def closed(self) -> None: ...


def view(quiet: bool) -> View:
    """Return what shows a run: nothing, a live bar on a terminal, or plain lines."""
    if quiet:
        return Silent()
    return Bar() if sys.stderr.isatty() else Lines()


def follow(backend: Backend, run: str, shown: View) -> RunView:
    """Show a run from its beginning until it ends, and return it then; the backend may be away in between."""
    shown.opened(backend.run(run))
    try:
        for event in backend.events(run, after=0):
            shown.event(event)
            if event.kind == "run.state" and event.data.get("state") in ENDED:
                break
    finally:
        shown.closed()
    return backend.run(run)


def headline(run: RunView) -> str:
    """Return one line that says what runs."""
    experiment = run.experiment
    return (
        f"{run.id}: {run.algorithm}, {experiment['model']['name']}, {experiment['data']['name']}, "
        f"{experiment['clients']['count']} clients, {run.rounds} rounds, seed {experiment['seed']}"
    )


def wanted(experiment: Mapping[str, Any]) -> str:
    """Return the clients that a run needs to begin."""
    clients = experiment["clients"]
    count = clients.get("minimum") or clients["count"]
    labels = ", ".join(f"{key}={value}" for key, value in clients.get("require", {}).items())
    return f"{count} client{'s' if count != 1 else ''}{f' with {labels}' if labels else ''}"


def sentence(event: EventView, waits_for: str = "clients") -> str | None:
    """Return what an event means in words, None for one that needs none."""
    data = event.data
    reason = data.get("reason") or data.get("message") or ""
    match event.kind:
        case "run.state" if data.get("paused"):
            return f"paused: {reason}" if reason else "paused"
        case "run.state":
            words = {
                "queued": f"waiting for {waits_for}",
                "preparing": "clients prepare their data",
                "failed": "failed",
            }
            said = words.get(str(data.get("state")), "")
            return f"{said}: {reason}" if said and reason else said or None
        case "client.seated":
            since = f"joins after round {event.round}" if event.round else "takes part"
            return f"{data.get('name')} {since} as client {data.get('number')}"
        case "client.dropped" if not event.round:
            return f"client {data.get('number')} is left out: {reason}"
        case "client.dropped":
            return f"round {event.round}: client {data.get('number')} is left out: {reason}"
        case "task.failed":
            again = "; trying again" if data.get("retried") else ""
            return f"{data.get('kind')} at {_who(data)} failed: {reason}{again}"
    return None


def _who(data: Mapping[str, Any]) -> str:
    target = str(data.get("target", ""))
    return f"client {data.get('number')}" if target.startswith("client:") else target or "a client"


def _figures(metrics: Mapping[str, Any], total: int) -> str:
    """The figures of a round; without a test set of everyone, the accuracy on the clients' own."""
    accuracy = metrics.get("test_accuracy")
    accuracy = metrics.get("own_accuracy") if accuracy is None else accuracy
    loss = metrics.get("loss")
    return figures({**metrics, "test_accuracy": accuracy, "loss": math.nan if loss is None else loss}, total)


class Silent:
    """Watches and says nothing."""

    def opened(self, run: RunView) -> None:
        """A run is watched from here on."""

    def event(self, event: EventView) -> None:
        """Something happened."""

    def closed(self) -> None:
        """The run is over, or nobody watches any more."""


class Lines:
    """Plain lines for logs and pipes."""

    def __init__(self) -> None:
        self._total = 0
        self._rounds = 0
        self._shown = 0.0
        self._wanted = "clients"

    def opened(self, run: RunView) -> None:
        """Print what runs."""
        self._rounds, self._wanted = run.rounds, wanted(run.experiment)
        note(headline(run))
        if run.state == "queued":
            note(run.reason or f"waiting for {self._wanted}")

    def event(self, event: EventView) -> None:
        """Print what happened; of rounds that follow closely only some."""
        if event.kind == "round":
            self._round(event.data)
        elif (said := sentence(event, self._wanted)) is not None:
            note(said)

    def closed(self) -> None:
        """Print nothing."""

    def _round(self, metrics: Mapping[str, Any]) -> None:
        self._total += metrics["bytes_up"] + metrics["bytes_down"]
        if metrics["round"] == self._rounds or time.monotonic() - self._shown >= PLAIN_INTERVAL:
            self._shown = time.monotonic()
            note(f"round {metrics['round']}/{self._rounds}  {_figures(metrics, self._total)}")


class Bar:
    """A bar over the rounds, moved by what clients report, with the figures of the last round."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._total = 0
        self._round = 0
        self._shares: dict[int, float] = {}
        self._clients = 1
        self._wanted = "clients"

    def opened(self, run: RunView) -> None:
        """Print what runs and open the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        console.print(headline(run), highlight=False, markup=False)
        self._wanted = wanted(run.experiment)
        if run.state == "queued":
            console.print(run.reason or f"waiting for {self._wanted}", highlight=False, markup=False)
        self._clients = run.clients or run.experiment["clients"]["count"]
        self._bar = Progress(
            TextColumn("round"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}", markup=False),
            TimeRemainingColumn(compact=True), console=console, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=run.rounds, completed=0)
        self._bar.start()

    def event(self, event: EventView) -> None:
        """Move the bar, or print what happened above it."""
        if self._bar is None or self._task is None:
            return
        if event.kind == "round":
            self._total += event.data["bytes_up"] + event.data["bytes_down"]
            self._round, self._shares = event.data["round"], {}
            self._bar.update(self._task, completed=self._round, description=_figures(event.data, self._total))
        elif event.kind == "round.state" and event.data.get("state") == "selected":
            self._clients = max(1, event.data.get("count") or len(event.data.get("participants", [])))
            self._shares = {}
        elif event.kind == "progress" and event.data.get("kind") == "train" and event.data.get("of"):
            self._shares[event.data["number"]] = min(1.0, event.data["batches"] / event.data["of"])
            share = min(sum(self._shares.values()) / self._clients, 0.999)
            self._bar.update(self._task, completed=int((self._round + share) * 1000) / 1000)
        elif (said := sentence(event, self._wanted)) is not None:
            self._bar.console.print(said, highlight=False, markup=False)

    def closed(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
