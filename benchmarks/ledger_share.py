"""What the gradient ledger and the update of the backbone cost of a round: resnet18, file_sync, real services.

    python benchmarks/ledger_share.py [--clients 5]

The split server runs with a clock around what the ledger does with a gradient (adding, writing, summing) and around the
step that follows (mean, optimizer, publishing the next version); its seconds are divided by those of the rounds.
Clients run in processes of their own, as does everything else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from time import perf_counter
from typing import Any

CLOCK = "CUTLAYER_LEDGER_CLOCK"
"""Where a split server writes its seconds when it ends."""


def measured(clients: int, rounds: int, batch: int, every: str) -> tuple[dict[str, float], float]:
    """Train, and return the server's seconds by what they were for, and those of all rounds."""
    from running import HERE, running

    from cutlayer.config import load

    clock = HERE / f".clock-{os.getpid()}.json"
    try:
        with running(1, clients, (sys.executable, __file__, "--serve"), **{CLOCK: str(clock)}) as there:
            experiment = load(
                None,
                (),
                algorithm="file_sync",
                model="resnet18",
                data={"name": "services:colour_images", "samples": 3 * clients * batch},
                partition="iid",
                clients={"count": clients, "test_fraction": 0.0},
                batch_size=batch,
                optimizer={"name": "sgd", "lr": 0.05, "momentum": 0.9},
                update=every,
                rounds=rounds,
                evaluate=10_000,
                device="cpu",
                threads=1,
            )
            run = there.done(there.backend.submit(experiment.as_dict()))
            lines = there.backend.metrics(run.id)
        return json.loads(clock.read_text()), sum(float(line["seconds"]) for line in lines)
    finally:
        clock.unlink(missing_ok=True)


def serve() -> None:
    """Run the command line, with clocks in a split server."""
    del sys.argv[1]
    if sys.argv[1:3] != ["serve", "split"]:
        from cutlayer.cli import main as command_line

        return command_line()
    from cutlayer.cli import main as command_line
    from cutlayer.roles.window_replica import WindowReplica
    from cutlayer.store import GradientLedger

    spent = {"ledger": 0.0, "update": 0.0}
    inside: list[str] = []

    def clocked(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def called(*args: Any, **keys: Any) -> Any:
            if inside:  # the outermost clock counts
                return function(*args, **keys)
            inside.append(what)
            begun = perf_counter()
            try:
                return function(*args, **keys)
            finally:
                inside.pop()
                spent[what] += perf_counter() - begun

        return called

    for name in ("add", "flush"):
        setattr(GradientLedger, name, clocked("ledger", getattr(GradientLedger, name)))
    for name in ("_make_step", "_collect", "settle"):
        setattr(WindowReplica, name, clocked("update", getattr(WindowReplica, name)))
    try:
        command_line()
    finally:
        Path(os.environ[CLOCK]).write_text(json.dumps(spent))


def main() -> None:
    """Print the shares for both kinds of windows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clients", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    for every in ("clients", "round"):
        spent, total = measured(options.clients, options.rounds, options.batch, every)
        shares = "   ".join(f"{what} {seconds / total:.2%}" for what, seconds in spent.items())
        print(
            f"a step every {every}: {shares}   together {sum(spent.values()) / total:.2%} of {total:.0f} s", flush=True
        )


if __name__ == "__main__":
    serve() if sys.argv[1:2] == ["--serve"] else main()
