"""Split training through real services on this machine, over what the same exchange costs otherwise.

    python benchmarks/services.py micro      MicroSFL's workload: batches/s over JSON lists with FastAPI and requests
    python benchmarks/services.py replicas   two split servers, every request to the other one, over one
    python benchmarks/services.py resnet     resnet18 on CIFAR-sized images: samples/s over ordinary training

Every number is one of a pair that was measured in turns on the same machine; medians of the ratios, with quartiles.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch

import cutlayer as cl
from cutlayer.config import load
from cutlayer.data import Dataset, TensorSamples
from cutlayer.services.api import Backend
from cutlayer.services.http import Link
from cutlayer.services.local.deployment import Deployment
from cutlayer.services.local.down import down
from cutlayer.services.local.up import up
from cutlayer.services.secrets import read_secret

HERE = Path(__file__).resolve().parent
CLIENTS, BATCH = 5, 64
SAMPLES = 60_000
"""As many as MNIST has."""


def flat_images(samples: int = SAMPLES) -> Dataset:
    """Return made-up samples of MNIST's form: what is timed does not depend on the values."""
    return _made_up(samples, (784,))


def colour_images(samples: int = 384) -> Dataset:
    """Return made-up samples of CIFAR-10's form."""
    return _made_up(samples, (3, 32, 32))


def _made_up(samples: int, shape: tuple[int, ...]) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((samples + BATCH, *shape), generator=generator)
    y = torch.randint(0, 10, (samples + BATCH,), generator=generator)
    train, test = TensorSamples((x[:samples],), y[:samples]), TensorSamples((x[samples:],), y[samples:])
    return Dataset("made-up", train, test, 10, tuple(map(str, range(10))), shape)


@contextmanager
def deployed(split: int, clients: int, **environment: str) -> Iterator[Backend]:
    """Start services in a temporary folder; yield the backend's interface."""
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    known = {"PYTHONPATH": os.pathsep.join(paths), "CUTLAYER_ALLOW": "services", **environment}
    before = {name: os.environ.get(name) for name in known}
    os.environ.update(known)
    with tempfile.TemporaryDirectory() as folder:
        there = Deployment(Path(folder) / "services")
        try:
            up(there, split=split, clients=clients, dashboard=False)
            process = there.read().of("backend")
            assert process is not None
            assert process.url is not None
            yield Backend(Link(process.url, token=read_secret(there.token("operator"), "the operator's token")))
        finally:
            down(there)
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def seconds(backend: Backend, rounds: int, **keys: Any) -> list[float]:
    """Train, and return the seconds of every round but the first, in which processes import and caches fill."""
    experiment = load(None, (), rounds=rounds, device="cpu", threads=1, evaluate=10_000, **keys)
    run = backend.submit(experiment.as_dict())
    while (view := backend.run(run)).state not in ("done", "failed", "cancelled"):
        time.sleep(1.0)  # the backend, which is asked, computes on the same cores
    if view.state != "done":
        raise SystemExit(f"the run has {view.state}: {view.reason}")
    return [float(m["seconds"]) for m in backend.metrics(run)][1:]


def micro_keys(every: str) -> dict[str, Any]:
    """Return the keys of MicroSFL's workload; ``every`` says when the backbone steps."""
    return {
        "algorithm": "file_sync",
        "model": {"name": "mlp", "hidden": [64, 64]},
        "data": {"name": "services:flat_images"},
        "partition": "iid",
        "clients": {"count": CLIENTS, "test_fraction": 0.0},
        "batch_size": BATCH,
        "optimizer": {"name": "sgd", "lr": 0.05},
        "update": {"every": every},
    }


def json_seconds(port: int, batches: int) -> float:
    """Return the seconds of the exchange in JSON, clients together."""
    program = [sys.executable, str(HERE / "json_exchange.py")]
    server = subprocess.Popen([*program, "server", str(port)], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        _await(port)
        clients = [
            subprocess.Popen(
                [*program, "client", str(port), str(seed), str(batches)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for seed in range(CLIENTS)
        ]
        for client in clients:
            assert client.stdout is not None
            client.stdout.readline()
        for client in clients:
            assert client.stdin is not None
            client.stdin.write("go\n")
            client.stdin.flush()
        return max(float(client.communicate()[0]) for client in clients)
    finally:
        server.terminate()
        server.wait()


def _await(port: int) -> None:
    import socket

    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server in JSON did not start")


def micro(repetitions: int) -> None:
    """Print batches/s of both, and their ratio."""
    ours: dict[str, list[float]] = {"round": [], "clients": []}
    theirs: list[float] = []
    with deployed(1, CLIENTS) as backend:
        for repetition in range(repetitions):
            count = 100
            theirs.append(CLIENTS * count / json_seconds(19_500 + repetition, count))
            for every, found in ours.items():
                spent = seconds(backend, 4, **micro_keys(every))
                found.append(median(SAMPLES / BATCH / s for s in spent))
    for every, found in ours.items():
        ratios = [a / b for a, b in zip(found, theirs, strict=True)]
        print(f"a step every {every}: {median(found):.0f} batches/s, JSON {median(theirs):.0f}: {spread(ratios)}")


def replicas(repetitions: int) -> None:
    """Print the seconds of two replicas that take turns over those of one."""
    ratios = []
    for _ in range(repetitions):
        found = []
        for split in (1, 2):
            with deployed(split, CLIENTS, CUTLAYER_ROTATE="true" if split > 1 else "false") as backend:
                found.append(median(seconds(backend, 4, **micro_keys("clients"))))
        ratios.append(found[0] / found[1])
    print(f"two split servers, each request to the other one, over one: {spread(ratios)}")


def resnet(repetitions: int) -> None:
    """Print samples/s of resnet18 through services over ordinary training on the same cores."""
    data = colour_images()
    keys: dict[str, Any] = {
        "model": "resnet18",
        "partition": "iid",
        "clients": {"count": 1, "test_fraction": 0.0},
        "batch_size": BATCH,
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
    }
    with deployed(1, 1) as backend:
        for recipe in ("ushaped", "vanilla"):
            ratios = []
            for _ in range(repetitions):
                plain = cl.run(
                    "centralized", "resnet18", data, rounds=2, threads=1, evaluate=10_000,
                    **{k: v for k, v in keys.items() if k != "model"},
                ).metrics[-1]["seconds"]  # fmt: skip
                split = seconds(backend, 2, algorithm=recipe, data={"name": "services:colour_images"}, **keys)[-1]
                ratios.append(plain / split)
            print(f"resnet18 {recipe} through services over ordinary training: {spread(ratios)}")


def spread(ratios: list[float]) -> str:
    """Return the median of some ratios with their quartiles."""
    if len(ratios) < 2:
        return f"{ratios[0]:.2f}"
    low, _, high = quantiles(ratios, n=4, method="inclusive")
    return f"{median(ratios):.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    """Run one of the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("micro", "replicas", "resnet"))
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    {"micro": micro, "replicas": replicas, "resnet": resnet}[options.what](options.repetitions)


if __name__ == "__main__":
    main()
