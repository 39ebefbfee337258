"""Replicas that keep nothing: the same weights as in one process, whatever is killed, repeated or sent elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cutlayer.api import run_experiment
from roles.fleet import Fleet

KEYS: dict[str, Any] = {
    "model": {"name": "mlp", "hidden": [24, 24], "dropout": 0.2},
    "clients": {"count": 3},
    "partition": {"name": "dirichlet", "alpha": 1.0},
    "batch_size": 64,
    "optimizer": {"name": "adam", "lr": 0.003},
    "threads": 1,
    "seed": 3,
}
RECIPES: list[Any] = [
    "vanilla", "ushaped", "splitfed_v1", "splitfed_v2", "splitfed_u", "file_sync", "psl", "sglr",
    {"name": "cse_fsl", "upload_every": 2},
    {"name": "fsl_sage", "upload_every": 2, "align_every": 1, "align_epochs": 2, "align_batch": 50, "buffer": 100},
]  # fmt: skip


VARIANTS: list[dict[str, Any]] = [
    {"algorithm": "file_sync", "update": {"every": 2}, "local_epochs": 2},
    {"algorithm": "file_sync", "update": {"every": 150, "unit": "samples"}, "clip": 1.0},
    {"algorithm": "splitfed_u", "update": {"every": "round"}, "clients": {"count": 5, "fraction": 0.6}},
    {"algorithm": "file_sync", "codec": {"activations": "int8", "output_gradients": "bf16", "cut_gradients": "int8"}},
    {
        "algorithm": "file_sync",
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "schedule": {"name": "StepLR", "step_size": 1}},
    },
    {
        "algorithm": "splitfed_v1",
        "aggregator": {"name": "fedprox", "mu": 0.1},
        "clients": {"count": 5, "fraction": 0.6},
    },
    {"algorithm": "splitfed_v1", "aggregator": "fedadam"},
    {"algorithm": "splitfed_v3", "local_epochs": 2},
    {"algorithm": "vanilla", "codec": {"name": "topk", "ratio": 0.3}, "local_epochs": 2},
    {"algorithm": "ushaped", "codec": "int8", "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}},
    {"algorithm": {"name": "fsl_sage", "upload_every": 3, "align_every": 2, "align_epochs": 1}, "local_epochs": 3},
    {"algorithm": {"name": "file_sync", "feedback": "none"}},
    {"algorithm": {"name": "splitfed_v2", "step": "window"}, "update": {"every": 2}, "local_epochs": 2},
    {"algorithm": {"name": "file_sync", "labels": "server"}, "update": {"every": 150, "unit": "samples"}},
    {
        "algorithm": {"name": "splitfed_v2", "step": "window"},
        "model": {"name": "resnet20"},
        "cuts": None,
        "clients": {"count": 2},
        "batch_size": 400,
        "update": "round",
    },
]


def fleet_free(fleet: Fleet, rounds: int) -> dict[str, torch.Tensor]:
    """Return the weights that the same experiment has in one process."""
    return run_experiment(fleet.experiment.model_copy(update={"rounds": rounds})).model


def _check(fleet: Fleet, rounds: int) -> None:
    found = fleet.run(rounds)
    expected = fleet_free(fleet, rounds)
    parts = fleet.setup.split.copy().parts
    compared = 0
    for name, weights in found.items():
        for key in parts[name].state_dict():
            assert torch.equal(weights[key], expected[key]), f"{name} {key}"
            compared += 1
    assert compared


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_one_replica_gives_the_weights_of_one_process(recipe: Any) -> None:
    _check(Fleet({**KEYS, "algorithm": recipe}, count=1), 2)


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_replicas_that_die_and_requests_that_repeat_change_nothing(recipe: Any, seed: int) -> None:
    _check(Fleet({**KEYS, "algorithm": recipe}, count=3, chaos=0.15, seed=seed), 3)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: str(v)[:60])
def test_whatever_the_experiment(variant: dict[str, Any]) -> None:
    _check(Fleet({**KEYS, **variant}, count=2, chaos=0.1), 3)


@pytest.mark.parametrize("recipe", ["splitfed_v1", "splitfed_v2", "file_sync", "ushaped"])
def test_batchnorm_statistics_are_committed_once(recipe: str) -> None:
    keys = {**KEYS, "model": {"name": "resnet20"}, "data": "digits", "clients": {"count": 2}, "batch_size": 400}
    _check(Fleet({**keys, "algorithm": recipe, "cuts": None}, count=2, chaos=0.2), 2)
