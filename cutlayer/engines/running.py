"""Runs an experiment from its first or its next round to the end, writing the run folder on the way."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from cutlayer import streams
from cutlayer.config import Experiment
from cutlayer.engines import scoring, snapshot
from cutlayer.engines.asynchronous import AsynchronousEngine
from cutlayer.engines.folder import METRICS, SUMMARY, RunFolder
from cutlayer.engines.local import LocalEngine
from cutlayer.engines.prepare import Prepared
from cutlayer.version import __version__


class Observer(Protocol):
    """Is told how a run goes."""

    def started(self, experiment: Experiment, prepared: Prepared, done: int) -> None: ...

    def batch(self, round_number: int, batches: int) -> None: ...

    def round(self, metrics: Mapping[str, Any]) -> None: ...

    def finished(self) -> None: ...


class Silent:
    """Watches and says nothing."""

    def started(self, experiment: Experiment, prepared: Prepared, done: int) -> None:
        """A run begins, or goes on after round ``done``."""

    def batch(self, round_number: int, batches: int) -> None:
        """So many more batches of the round are done."""

    def round(self, metrics: Mapping[str, Any]) -> None:
        """A round is done."""

    def finished(self) -> None:
        """The run is over, one way or the other."""


@dataclass(frozen=True)
class Result:
    """What came of a run: ``summary`` and ``metrics`` as in the run folder, the joined model, and the folder if any."""

    summary: dict[str, Any]
    metrics: list[dict[str, Any]]
    model: dict[str, Tensor]
    path: Path | None


def execute(
    experiment: Experiment,
    prepared: Prepared,
    folder: RunFolder | None = None,
    observer: Observer | None = None,
    *,
    resume: bool = False,
) -> Result:
    """Run ``experiment`` to its end and return the result.

    With a ``folder`` everything is written there, and with ``resume`` the run goes on from its newest checkpoint.
    An interruption (Ctrl-C, a kill, a full disk) loses at most the rounds since the last checkpoint.
    """
    observer = observer or Silent()
    writing = folder.locked() if folder is not None else nullcontext()
    with streams.preserved(), _numerics(experiment, prepared), writing:
        engine = engine_of(prepared)
        metrics = _restore(engine, folder) if folder is not None and resume else []
        if folder is not None:
            folder.write_json("partition.json", prepared.partition)
            folder.write_json("model.json", prepared.model)
            if not resume:
                folder.write(METRICS, "")
        engine.on_batch = observer.batch
        observer.started(experiment, prepared, engine.done)
        last: dict[str, Any] = {}
        try:
            while engine.done < experiment.rounds:
                found = engine.round()
                if engine.done % experiment.evaluate.every == 0 or engine.done == experiment.rounds:
                    last = scoring.evaluate(engine)
                record = _record(found, last if last.get("round") in (None, engine.done) else {})
                last = {**last, "round": engine.done} if last else {}
                metrics.append(record)
                if folder is not None:
                    _save(engine, folder, experiment, record)
                observer.round(record)
        finally:
            observer.finished()
        return _conclude(engine, experiment, prepared, metrics, folder, last)


def engine_of(prepared: Prepared) -> LocalEngine:
    """Return the engine that goes through the recipe's schedule."""
    kind = AsynchronousEngine if prepared.settings.recipe.asynchronous else LocalEngine
    return kind(prepared.setup, prepared.settings)


def _record(found: dict[str, Any], evaluated: Mapping[str, Any]) -> dict[str, Any]:
    time = {**found["time"], "evaluation": evaluated.get("evaluation_seconds", 0.0)}
    return {
        **found,
        "test_accuracy": evaluated.get("test_accuracy"),
        "test_loss": evaluated.get("test_loss"),
        "client_accuracy": evaluated.get("client_accuracy", {}),
        "time": time,
    }


def _save(engine: LocalEngine, folder: RunFolder, experiment: Experiment, record: dict[str, Any]) -> None:
    folder.append_metrics(record)
    due = experiment.checkpoint and engine.done % experiment.checkpoint == 0
    if due or engine.done == experiment.rounds:
        folder.write_checkpoint(engine.done, *snapshot.take(engine))


def _restore(engine: LocalEngine, folder: RunFolder) -> list[dict[str, Any]]:
    found = folder.checkpoint()
    if found is not None:
        snapshot.restore(engine, *found)
    return folder.cut_metrics(engine.done)


def _conclude(
    engine: LocalEngine,
    experiment: Experiment,
    prepared: Prepared,
    metrics: list[dict[str, Any]],
    folder: RunFolder | None,
    last: Mapping[str, Any],
) -> Result:
    if "confusion" not in last:
        last = scoring.evaluate(engine)
    model = scoring.joined_model(engine)
    result = Result(summarise(experiment, prepared, metrics), metrics, model, folder.path if folder else None)
    if folder is not None:
        folder.write_model(model)
        folder.write_json(
            "evaluation.json", {"classes": list(prepared.partition["classes"]), "confusion": last["confusion"]}
        )
        folder.write_json(SUMMARY, result.summary)
    return result


def summarise(experiment: Experiment, prepared: Prepared, metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of a finished run.

    ``best_accuracy`` is the highest of all rounds, on the test set: report it, but do not choose by it.
    """
    accuracies = [m["test_accuracy"] for m in metrics if m["test_accuracy"] is not None]
    seconds = sum(m["seconds"] for m in metrics)
    samples = sum(m["samples"] for m in metrics)
    return {
        "algorithm": prepared.settings.recipe.name,
        "engine": str(experiment.engine["name"]),
        "test_accuracy": accuracies[-1] if accuracies else None,
        "best_accuracy": max(accuracies, default=None),
        "loss": metrics[-1]["loss"] if metrics else None,
        "rounds": len(metrics),
        "bytes_up": sum(m["bytes_up"] for m in metrics),
        "bytes_down": sum(m["bytes_down"] for m in metrics),
        "seconds": seconds,
        "samples": samples,
        "samples_per_second": samples / seconds if seconds else None,
        "seed": experiment.seed,
        "command": command(),
        "clients": experiment.clients.count,
        "device": str(prepared.settings.device),
        "threads": prepared.threads,
        "parameters": {name: part["parameters"] for name, part in prepared.model["parts"].items()},
        "data_note": prepared.setup.dataset.note,
        "versions": versions(),
    }


def command() -> str | None:
    """Return the command line that was given, None where cutlayer was called from Python."""
    if Path(sys.argv[0]).stem not in ("cutlayer", "cli"):
        return None
    return shlex.join(["cutlayer", *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    import numpy

    return {
        "cutlayer": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
    }


@contextmanager
def _numerics(experiment: Experiment, prepared: Prepared) -> Iterator[None]:
    """Deterministic kernels where there is a choice (CUDA); on the CPU torch's are, at a fixed number of threads."""
    filling: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), filling.fill_uninitialized_memory
    threads = torch.get_num_threads()
    torch.set_num_threads(prepared.threads)
    if prepared.settings.device.type == "cuda":
        torch.use_deterministic_algorithms(experiment.deterministic, warn_only=True)
        filling.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(before[0])
        filling.fill_uninitialized_memory = before[1]
