"""Real services on this machine, for tests: start them, train on them, look at what came out, end them."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from replayed import replayed
from safetensors.torch import load_file
from torch import Tensor

from cutlayer.api import run_experiment
from cutlayer.config import Experiment, load
from cutlayer.services.api import Backend
from cutlayer.services.http import Link
from cutlayer.services.local.deployment import Deployment
from cutlayer.services.local.down import down
from cutlayer.services.local.up import up
from cutlayer.services.protocol import RunView
from cutlayer.services.secrets import read_secret

SMALL: dict[str, Any] = {
    "model": {"name": "mlp", "hidden": [24, 24], "dropout": 0.2},
    "partition": {"name": "dirichlet", "alpha": 1.0},
    "clients": {"count": 3},
    "batch_size": 64,
    "optimizer": {"name": "adam", "lr": 0.003},
    "threads": 1,
    "device": "cpu",
    "seed": 3,
    "rounds": 2,
}
"""An experiment of seconds."""


class Deployed:
    """Services that run in ``folder``."""

    def __init__(self, there: Deployment) -> None:
        self.there = there
        self.backend = self.api()

    def api(self, role: str = "operator") -> Backend:
        process = self.there.read().of("backend")
        assert process is not None
        assert process.url is not None
        return Backend(Link(process.url, token=read_secret(self.there.token(role), role), patience=120.0))

    def submit(self, **keys: Any) -> tuple[str, Experiment]:
        experiment = load(None, (), **{**SMALL, **keys})
        return self.backend.submit(experiment.as_dict()), experiment

    def ended(self, run: str, within: float = 240.0) -> RunView:
        """Wait until a run has ended, or waits for its operator."""
        until = time.monotonic() + within
        while time.monotonic() < until:
            view = self.backend.run(run)
            if view.state in ("done", "failed", "cancelled") or view.cause == "failure":
                return view
            time.sleep(0.1)
        raise AssertionError(f"run {run} has not ended: {view.state}, round {view.round}, {view.reason}\n{self.said()}")

    def train(self, **keys: Any) -> tuple[RunView, Experiment]:
        run, experiment = self.submit(**keys)
        view = self.ended(run)
        assert view.state == "done", f"{view.reason}\n{self.said()}"
        return view, experiment

    def model(self, run: str, folder: Path) -> dict[str, Tensor]:
        file = folder / f"{run}.safetensors"
        self.backend.download(run, "model.safetensors", file)
        return load_file(file)

    def check_order(self, run: str, experiment: Experiment, folder: Path) -> dict[str, Any]:
        """The weights of an asynchronous run are those of the order of arrival, in which every batch counts once."""
        self.backend.download(run, "arrivals.json", folder / "arrivals.json")
        order: dict[str, Any] = json.loads((folder / "arrivals.json").read_text())
        expected, found = replayed(experiment, order), self.model(run, folder)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), f"{name}\n{self.said(40)}"
        batches = Counter(tuple(key) for each in order["batches"] for key in each)
        assert set(batches.values()) == {1}
        return order

    def said(self, lines: int = 15) -> str:
        """Return the last lines of every log."""
        found = []
        for file in sorted((self.there.folder / "logs").glob("*.log")):
            found.append(f"== {file.name}\n" + "\n".join(file.read_text(errors="replace").splitlines()[-lines:]))
        return "\n".join(found)


@contextmanager
def deployed(folder: Path, *, split: int = 2, clients: int = 3, **environment: str) -> Iterator[Deployed]:
    """Start services in ``folder``, and end them."""
    there = Deployment(folder)
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        up(there, split=split, clients=clients, dashboard=False)
        yield Deployed(there)
    finally:
        down(there)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def in_process(experiment: Experiment) -> tuple[dict[str, Tensor], list[Mapping[str, Any]]]:
    """Return weights and metrics of the same experiment in one process."""
    result = run_experiment(experiment)
    return result.model, list(result.metrics)
