"""Waiting for stragglers over not waiting: simulated seconds until a test accuracy is reached.

    python benchmarks/asynchronous.py [DATA]

The same clients, model and optimizers twice: `splitfed_async`, and SplitFed with the same steps of the backbone whose
rounds end when the slowest client has ended its pass.  DATA is a folder with MNIST's files; without it the embedded
digits.  Every client has a speed of its own: a log-normal spread, or one client ten times as slow as the others.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median
from typing import Any

import cutlayer as cl
from cutlayer.config import Experiment, load
from cutlayer.engines.clock import paces
from cutlayer.engines.prepare import prepare
from cutlayer.engines.running import Silent, execute
from cutlayer.recipes import Recipe

CLIENTS = 10
WAITING = Recipe("splitfed_waiting", step="window", averaged=("encoder",), source="SplitFed", summary="waits")
SPEEDS: dict[str, Any] = {
    "all alike": 0.0,
    "spread 0.5": 0.5,
    "spread 1": 1.0,
    "one ten times as slow": [1e-3] * (CLIENTS - 1) + [1e-2],
}


def seconds_to(target: float, lines: list[dict[str, Any]]) -> float | None:
    """Return when the accuracy was first reached, on the clock of the lines; None if it was not."""
    return next((line["virtual_seconds"] for line in lines if line["test_accuracy"] >= target), None)


def run(experiment: Experiment, recipe: Recipe | None = None) -> list[dict[str, Any]]:
    """Return the metrics of a run, each line with its time on the simulated clock."""
    prepared = prepare(experiment, recipe=recipe)
    lines = execute(experiment, prepared, observer=Silent()).metrics
    if recipe is not None:
        pace = paces(experiment.clients.pace, CLIENTS, experiment.seed)
        work = {client: pace[client] * len(share.train) for client, share in enumerate(prepared.setup.shares)}
        lines = [{**line, "virtual_seconds": number * max(work.values())} for number, line in enumerate(lines, 1)]
    return lines


def main() -> None:
    """Print a row for every mixture of speeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="folder with MNIST's files")
    parser.add_argument("--target", type=float, default=0.95)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    data: dict[str, Any] = {"name": "idx", "path": str(given.data)} if given.data else {"name": "digits"}
    sys.stdout.write(f"cutlayer {cl.__version__}, {data['name']}, simulated seconds until {given.target}\n")
    for name, pace in SPEEDS.items():
        ratios, shown = [], []
        for seed in range(given.seeds):
            keys: dict[str, Any] = {
                "data": data, "clients": {"count": CLIENTS, "pace": pace}, "rounds": given.rounds, "seed": seed,
                "partition": {"name": "dirichlet", "alpha": 0.5}, "batch_size": 16 if data["name"] == "digits" else 64,
            }  # fmt: skip
            waiting = seconds_to(given.target, run(load(None, (), **keys), WAITING))
            free = load(None, (), **keys, algorithm="splitfed_async")
            asynchronous = seconds_to(given.target, run(free))
            shown.append(f"{_shown(asynchronous)} / {_shown(waiting)}")
            if waiting is not None and asynchronous is not None:
                ratios.append(waiting / asynchronous)
        middle = f"{median(ratios):.1f} times as fast" if len(ratios) == given.seeds else "not reached by all"
        sys.stdout.write(f"{name:24} {middle:22} (not waiting / waiting, by seed: {', '.join(shown)})\n")
        sys.stdout.flush()


def _shown(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"


if __name__ == "__main__":
    main()
