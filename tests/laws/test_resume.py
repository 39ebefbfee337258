"""Interrupted at any moment and resumed, a run has the weights and metrics of one that was never stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

import cutlayer as cl
from cutlayer.config import Experiment, parse
from cutlayer.engines.folder import RunFolder
from cutlayer.engines.prepare import Prepared, prepare
from cutlayer.engines.running import Silent, execute
from cutlayer.errors import DamagedObject
from cutlayer.recipes import RECIPES

ROUNDS = 4
ALIGNED = {"name": "fsl_sage", "align_every": 2, "align_epochs": 3, "align_batch": 16, "buffer": 30, "upload_every": 2}
TOPK = {"name": "topk", "ratio": 0.3, "feedback": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "momentum": {"optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9}},
    "adam, schedule, clipped, epochs": {
        "optimizer": {"name": "adam", "lr": 0.01, "schedule": {"name": "StepLR", "step_size": 1, "gamma": 0.5}},
        "clip": 0.5,
        "local_epochs": 2,
    },
    "codecs with memory": {
        "codec": TOPK,
        "optimizer": {"name": "sgd", "lr": 0.05},
        "clients": {"count": 3, "test_fraction": 0.2},  # whole batches only: errors go from one to the next
        "partition": "iid",
    },
    "int8": {"codec": "int8"},
    "some clients, fedadam": {
        "clients": {"count": 5, "fraction": 0.5, "test_fraction": 0.2},
        "aggregator": {"name": "fedadam", "lr": 0.05},
        "codec": {"updates": "int8"},
    },
    "some clients, fedyogi, sparse checkpoints": {
        "clients": {"count": 5, "fraction": 0.5},
        "aggregator": "fedyogi",
        "checkpoint": 2,
        "evaluate": 3,
        "seed": 4,
    },
}


class Stop(Silent):
    """Presses Ctrl-C at the end of a round, or at a batch."""

    def __init__(self, *, after_round: int = 0, at_batch: int = 0) -> None:
        self.after_round, self.at_batch = after_round, at_batch
        self.batches = 0

    def batch(self, round_number: int, batches: int) -> None:
        self.batches += batches
        if self.at_batch and self.batches >= self.at_batch:
            raise KeyboardInterrupt

    def round(self, metrics: Mapping[str, Any]) -> None:
        if metrics["round"] == self.after_round:
            raise KeyboardInterrupt


@cache
def _objects(recipe: str) -> tuple[cl.SplitModel, cl.Dataset]:
    data = toys.dataset(toys.rows(60), toys.rows(20, 1))
    cuts = ["drop1", "drop2"][: 1 + (RECIPES[recipe].labels == "client")]
    return toys.cut(toys.made(toys.Dense, width=20), cuts, data.train), data


def _prepared(recipe: str, experiment: Experiment) -> Prepared:
    model, data = _objects(recipe)
    return prepare(experiment, dataset=data, model=model)


def _run(recipe: str, out: Path, observer: Silent | None = None, **keys: Any) -> cl.Result:
    """Run without the pictures that ``cl.run`` draws at the end."""
    algorithm = ALIGNED if recipe == "fsl_sage" else recipe
    options: dict[str, Any] = {"rounds": ROUNDS, "batch_size": 8, "clients": 3, "algorithm": algorithm} | keys
    if RECIPES[recipe].asynchronous:  # updates are mixed in one by one
        options.pop("aggregator", None)
    experiment = parse(options)
    return execute(experiment, _prepared(recipe, experiment), RunFolder.create(out, experiment), observer)


def _resume(recipe: str, out: Path, observer: Silent | None = None) -> cl.Result:
    folder, experiment = RunFolder.open(out)
    return execute(experiment, _prepared(recipe, experiment), folder, observer, resume=True)


def _timeless(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in m.items() if k not in ("seconds", "time")} for m in metrics]


def _assert_same(found: cl.Result, expected: cl.Result) -> None:
    assert toys.same(found.model, expected.model)
    assert _timeless(found.metrics) == _timeless(expected.metrics)
    assert found.path is not None
    assert expected.path is not None
    written = load_file(found.path / "model.safetensors")
    assert toys.same(written, load_file(expected.path / "model.safetensors"))
    assert toys.same(written, found.model)
    timed = ("seconds", "samples_per_second")
    assert {k: v for k, v in found.summary.items() if k not in timed} == {
        k: v for k, v in expected.summary.items() if k not in timed
    }


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_interrupted_within_rounds_and_between_them(recipe: str, variant: str, tmp_path: Path) -> None:
    keys = VARIANTS[variant]
    expected = _run(recipe, tmp_path / "whole", **keys)
    with pytest.raises(KeyboardInterrupt):
        _run(recipe, tmp_path / "parts", Stop(at_batch=1), **keys)
    for stop in (Stop(after_round=1), Stop(at_batch=2), Stop(after_round=3)):
        with pytest.raises(KeyboardInterrupt):
            _resume(recipe, tmp_path / "parts", stop)
    _assert_same(_resume(recipe, tmp_path / "parts"), expected)


@settings(max_examples=6, deadline=None)
@given(
    recipe=st.sampled_from(sorted(RECIPES)),
    variant=st.sampled_from(sorted(VARIANTS)),
    stops=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
)
def test_interrupted_anywhere(
    tmp_path_factory: pytest.TempPathFactory, recipe: str, variant: str, stops: list[int], seed: int
) -> None:
    folder, keys = tmp_path_factory.mktemp("anywhere"), VARIANTS[variant] | {"seed": seed}
    expected = _run(recipe, folder / "whole", **keys)
    found: cl.Result | None = None
    for number, batch in enumerate(stops):
        try:
            found = (
                _resume(recipe, folder / "parts", Stop(at_batch=batch))
                if number
                else _run(recipe, folder / "parts", Stop(at_batch=batch), **keys)
            )
            break
        except KeyboardInterrupt:
            continue
    _assert_same(found or _resume(recipe, folder / "parts"), expected)


class Drifting(toys.Plain):
    """Has a buffer that moves and is not saved with the model."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = Shifted()


class Shifted(nn.Linear):
    def __init__(self) -> None:
        super().__init__(6, 8)
        self.register_buffer("seen", torch.ones(8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.get_buffer("seen")
        z = super().forward(x) + seen
        if self.training:
            seen.copy_(0.9 * seen + 0.1 * z.detach().mean(0))
        return z


@pytest.mark.parametrize("recipe", ["fedavg", "splitfed_v1", "splitfed_v2", "psl", "vanilla"])
def test_buffers_that_are_not_saved_with_the_model_survive_too(recipe: str, tmp_path: Path) -> None:
    data = toys.dataset(toys.rows(40), toys.rows(20, 1))
    split = toys.cut(toys.made(Drifting), ["relu1"], data.train)
    experiment = parse({"algorithm": recipe, "rounds": 3, "batch_size": 8, "clients": 2})

    def run(name: str, observer: Silent | None, resume: bool) -> cl.Result:
        folder = RunFolder(tmp_path / name) if resume else RunFolder.create(tmp_path / name, experiment)
        prepared = prepare(experiment, dataset=data, model=split)
        return execute(experiment, prepared, folder, observer, resume=resume)

    expected = run("whole", None, resume=False)
    with pytest.raises(KeyboardInterrupt):
        run("parts", Stop(after_round=2), resume=False)
    _assert_same(run("parts", None, resume=True), expected)


@pytest.mark.parametrize("update", [1, "clients", "round"])
def test_a_store_on_disk_that_got_ahead_of_the_checkpoint(update: Any, tmp_path: Path) -> None:
    expected = _run("file_sync", tmp_path / "whole", update=update)
    keys = {"update": update, "store": str(tmp_path / "store")}
    with pytest.raises(KeyboardInterrupt):
        _run("file_sync", tmp_path / "parts", Stop(at_batch=20), **keys)
    with pytest.raises(KeyboardInterrupt):
        _resume("file_sync", tmp_path / "parts", Stop(at_batch=11))
    _assert_same(_resume("file_sync", tmp_path / "parts"), expected)


def test_one_more_round_is_a_longer_run(tmp_path: Path) -> None:
    data = toys.dataset(toys.rows(40), toys.rows(20, 1))
    split = toys.cut(toys.made(toys.Plain), ["relu1"], data.train)
    keys: dict[str, Any] = {"clients": 2, "batch_size": 8, "optimizer": "adam"}
    expected = cl.run("splitfed_v2", split, data, rounds=3, **keys)
    cl.run("splitfed_v2", split, data, rounds=2, out=str(tmp_path / "run"), **keys)
    found = cl.resume(tmp_path / "run", rounds=3, model=split, dataset=data)
    assert toys.same(found.model, expected.model)
    assert _timeless(found.metrics) == _timeless(expected.metrics)


def test_a_finished_run_is_returned_as_it_is(tmp_path: Path) -> None:
    first = _run("psl", tmp_path / "run")
    _assert_same(_resume("psl", tmp_path / "run"), first)


SCRIPT = """
import sys
import cutlayer as cl
from cutlayer.engines.running import Silent

class Told(Silent):
    def batch(self, round_number, batches):
        print(round_number, flush=True)

keys = dict(model="mlp", data="digits", clients=3, rounds=4, batch_size=64, partition="iid", seed=2)
cl.run("file_sync", observer=Told(), out=sys.argv[1], store=sys.argv[2], update=2, **keys)
"""


@pytest.mark.parametrize("kill_in_round", [1, 3])
def test_killed_without_warning(kill_in_round: int, tmp_path: Path) -> None:
    """SIGKILL in the middle of a round: no handler runs, nothing is flushed."""
    killed, store = tmp_path / "killed", tmp_path / "store"
    command = [sys.executable, "-c", SCRIPT, str(killed), str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}) as run:
        assert run.stdout is not None
        seen = 0
        for line in run.stdout:
            seen += int(line) == kill_in_round
            if seen == 5:
                run.send_signal(signal.SIGKILL)
                break
    assert run.returncode == -signal.SIGKILL
    folder, experiment = RunFolder.open(killed)
    whole = RunFolder.create(tmp_path / "whole", experiment)
    expected = execute(experiment, prepare(experiment.model_copy(update={"store": None})), whole)
    _assert_same(execute(experiment, prepare(experiment), folder, resume=True), expected)


def test_a_torn_last_line_of_metrics_is_written_again(tmp_path: Path) -> None:
    expected = _run("vanilla", tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _run("vanilla", tmp_path / "parts", Stop(after_round=2))
    with open(tmp_path / "parts" / "metrics.jsonl", "a") as file:
        file.write('{"round": 3, "loss": 0.')
    found = _resume("vanilla", tmp_path / "parts")
    _assert_same(found, expected)
    lines = (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2, 3, 4]


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _run("vanilla", tmp_path / "parts", Stop(after_round=2))
    (checkpoint,) = (tmp_path / "parts" / "checkpoints").iterdir()
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(DamagedObject, match="000002"):
        _resume("vanilla", tmp_path / "parts")
