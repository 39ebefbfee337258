"""Memory of a real split server: flat over 10,000 steps, and under 1,000 forwards whose backward never comes.

    python benchmarks/server_memory.py steps
    python benchmarks/server_memory.py outstanding

Resident size of the process, as the system says, after so many batches (over that after 500), and with so many forwards
of 1 MB waiting for their gradients (over that with ten).  A U-shape through the store.  A server keeps recent graphs up
to a bound (``--graphs``, 64), which is what grows between ten forwards and a hundred.
"""

from __future__ import annotations

import argparse
import re
import time
from urllib.request import urlopen

import psutil
import torch
from running import Running, running

from cutlayer import wire
from cutlayer.config import load
from cutlayer.services.api import Backend
from cutlayer.services.http import Link
from cutlayer.wire import Message

STEPS = (500, 1_000, 2_000, 5_000, 10_000)
FORWARDS = (10, 100, 1_000)
ROWS, WIDTH = 256, 1024
"""A forward of 1 MB."""


def steps() -> None:
    """Train a small model on one client, and look at the server now and then."""
    with running(1, 1) as there:
        keys = {
            "model": {"name": "mlp", "hidden": [128, 128]},
            "batch_size": 16,
            "clients": 1,
            "local_epochs": 10,
            "update": 10,
        }
        experiment = load(
            None, (), algorithm="file_sync", rounds=1_000, threads=1, device="cpu", evaluate=10_000, **keys
        )
        run = there.backend.submit(experiment.as_dict())
        server, sizes = there.process("split-1"), dict[int, float]()
        for count in STEPS:
            while answered(there, "backward") < count:
                if there.backend.run(run).state not in ("queued", "preparing", "running"):
                    raise SystemExit(f"the run has ended: {there.backend.run(run).reason}")
                time.sleep(0.1)
            sizes[count] = resident(server)
            show("steps", sizes)
        there.backend.cancel(run)


def outstanding() -> None:
    """Send forwards as a client does, and never a backward: with recent graphs kept, and without."""
    for graphs in (64, 0):
        unanswered(graphs)


def unanswered(graphs: int) -> None:
    """Send forwards to a server that keeps so many graphs."""
    with running(1, 0, CUTLAYER_GRAPHS=str(graphs)) as there:
        enrolled = there.api("enrol").enrol("client")
        backend = Backend(Link(there.url("backend"), token=enrolled.key))
        keys = {"model": {"name": "mlp", "hidden": [WIDTH, 64]}, "batch_size": ROWS, "clients": 1, "update": "round"}
        experiment = load(None, (), algorithm="splitfed_u", rounds=1, threads=1, device="cpu", **keys)
        run = there.backend.submit(experiment.as_dict())
        task = backend.next_task()
        assert task is not None
        inputs = [{"shape": [64], "dtype": "float32"}]
        said = {"samples": ROWS * FORWARDS[-1], "test_samples": 0, "classes": 10, "inputs": inputs}
        backend.result(task.id, said)
        task = backend.next_task()
        assert task is not None
        server, sizes, sent = there.process("split-1"), dict[int, float](), 0
        with Link(there.url("split-1"), token=task.ticket) as link:
            for count in FORWARDS:
                while sent < count:
                    meta = {"key": [0, 1, 0, sent], "samples": ROWS}
                    message = Message("forward", {"h0": torch.randn(ROWS, WIDTH)}, meta)
                    link.binary("POST", f"/v1/runs/{run}/rounds/1/forward", wire.parts(message))
                    sent += 1
                sizes[count] = resident(server)
                show(f"forwards, {graphs} graphs kept", sizes)
        there.backend.cancel(run)


def answered(there: Running, kind: str) -> int:
    """Return how many requests of a kind the split server has answered."""
    with urlopen(f"{there.url('split-1')}/metrics") as answer:
        found = re.search(rf'cutlayer_step_seconds_count{{kind="{kind}"}} ([0-9.e+]+)', answer.read().decode())
    return int(float(found[1])) if found else 0


def resident(process: psutil.Process) -> float:
    """Return the megabytes that a process has in memory."""
    return float(process.memory_info().rss) / 1e6


def show(what: str, sizes: dict[int, float]) -> None:
    """Print the newest size, and what it is of the first."""
    first, (count, size) = next(iter(sizes.values())), list(sizes.items())[-1]
    print(f"{count:7,d} {what}: {size:7.1f} MB   {size / first:.3f}", flush=True)


def main() -> None:
    """Run one of the measurements, or both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("steps", "outstanding"))
    options = parser.parse_args()
    for name, work in {"steps": steps, "outstanding": outstanding}.items():
        if options.what in (None, name):
            work()


if __name__ == "__main__":
    main()
