"""With one client every recipe that sends true cut gradients is ordinary training of the uncut model, bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import cutlayer as cl
from cutlayer.data import TensorSamples
from cutlayer.recipes import RECIPES
from cutlayer.roles.settings import Settings

ONE_CUT = ("vanilla", "psl", "splitfed_v1", "splitfed_v2", "splitfed_v3", "sglr", "fedavg", "local")
TWO_CUTS = ("ushaped", "splitfed_u", "file_sync", "fedavg")


@dataclass(frozen=True)
class Case:
    model: Callable[[], nn.Module]
    samples: Callable[[int, int], TensorSamples]
    cuts: tuple[str, str]
    parts: tuple[str, str, str]
    """What the names of each part's parameters begin with, when both cuts are made."""


CASES = {
    "dense": Case(toys.Dense, toys.rows, ("drop1", "drop2"), ("fc1|norm1", "fc2|norm2", "fc3|fc4")),
    "conv": Case(
        toys.Conv, lambda n, s: toys.rows(n, s, (1, 7, 7)), ("norm1", "drop2"), ("conv1|norm1", "conv2|norm2", "fc")
    ),
    "skip": Case(toys.Skip, toys.rows, ("lower", "middle"), ("stem|lower", "middle", "upper")),
    "tokens": Case(toys.Tokens, toys.tokens, ("norm1", "norm2"), ("embed|norm1", "gru|norm2", "block|fc")),
    "spectral": Case(toys.Spectral, toys.rows, ("relu1", "relu2"), ("fc1", "fc2", "fc3")),
}
SGD: dict[str, Any] = {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}
ADAM: dict[str, Any] = {"name": "adam", "lr": 0.01, "weight_decay": 0.01}


@cache
def _split(name: str, cuts: int) -> cl.SplitModel:
    case = CASES[name]
    return toys.cut(toys.made(case.model), list(case.cuts[:cuts]), case.samples(4, 0))


@cache
def _data(name: str) -> cl.Dataset:
    return toys.dataset(CASES[name].samples(45, 0), CASES[name].samples(20, 1))


def _run(recipe: str, name: str, cuts: int, optimizer: dict[str, Any], **keys: Any) -> cl.Result:
    options = {"rounds": 2, "batch_size": 16, "local_epochs": 2, "seed": 3} | keys
    return cl.run(
        recipe, _split(name, cuts), _data(name), clients={"count": 1, "test_fraction": 0}, partition="iid",
        update=1, optimizer=optimizer, **options,
    )  # fmt: skip


@cache
def _centralized(name: str, cuts: int, optimizer: str, clip: float | None, precision: str) -> cl.Result:
    return _run("centralized", name, cuts, {"sgd": SGD, "adam": ADAM}[optimizer], clip=clip, precision=precision)


def _losses(result: cl.Result) -> list[tuple[float, float, float]]:
    return [(m["loss"], m["test_loss"], m["test_accuracy"]) for m in result.metrics]


@pytest.mark.parametrize(("optimizer", "clip", "precision"), [("sgd", 0.5, "fp32"), ("adam", None, "fp32")])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("recipe", "cuts"), [*((r, 1) for r in ONE_CUT), *((r, 2) for r in TWO_CUTS)])
def test_one_client_is_centralized_training(
    recipe: str, cuts: int, name: str, optimizer: str, clip: float | None, precision: str
) -> None:
    expected = _centralized(name, cuts, optimizer, clip, precision)
    found = _run(recipe, name, cuts, {"sgd": SGD, "adam": ADAM}[optimizer], clip=clip, precision=precision)
    assert toys.same(found.model, expected.model)
    assert _losses(found) == _losses(expected)


@pytest.mark.parametrize("name", ["dense", "conv", "tokens"])
@pytest.mark.parametrize(("recipe", "cuts"), [("vanilla", 1), ("psl", 1), ("ushaped", 2), ("file_sync", 2)])
def test_one_client_is_centralized_training_in_mixed_precision(recipe: str, cuts: int, name: str) -> None:
    expected = _centralized(name, cuts, "adam", None, "bf16")
    found = _run(recipe, name, cuts, ADAM, precision="bf16")
    assert toys.same(found.model, expected.model)
    assert not toys.same(found.model, _centralized(name, cuts, "adam", None, "fp32").model)


@pytest.mark.parametrize(("recipe", "cuts"), [("vanilla", 1), ("psl", 1), ("fedavg", 1), ("ushaped", 2)])
def test_augmentation_draws_the_same_in_every_recipe(recipe: str, cuts: int) -> None:
    augment = {"flip": True, "crop": 7, "padding": 1}
    expected = _run("centralized", "conv", cuts, SGD, augment=augment)
    assert toys.same(_run(recipe, "conv", cuts, SGD, augment=augment).model, expected.model)
    assert not toys.same(_run(recipe, "conv", cuts, SGD).model, expected.model)


@settings(max_examples=12, deadline=None)
@given(
    recipe=st.sampled_from([*((r, 1) for r in ONE_CUT), *((r, 2) for r in TWO_CUTS)]),
    name=st.sampled_from(list(CASES)),
    seed=st.integers(0, 10_000),
    batch_size=st.integers(2, 50),
    optimizer=st.sampled_from(["rmsprop", "adamw", "nadam", "adagrad", {"name": "sgd", "lr": 0.1, "momentum": 0.5}]),
)
def test_any_seed_batch_size_and_optimizer(
    recipe: tuple[str, int], name: str, seed: int, batch_size: int, optimizer: Any
) -> None:
    spec = optimizer if isinstance(optimizer, dict) else {"name": optimizer, "lr": 0.01}
    keys: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "rounds": 2, "local_epochs": 1}
    expected = _run("centralized", name, recipe[1], spec, **keys)
    found = _run(recipe[0], name, recipe[1], spec, **keys)
    assert toys.same(found.model, expected.model)


@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("cuts", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_centralized_is_a_plain_loop_over_the_uncut_model(
    name: str, cuts: int, optimizer: str, clip: float | None
) -> None:
    case = CASES[name]
    model = toys.made(case.model)
    agreed = Settings(RECIPES["centralized"], ("encoder", "backbone", "head")[: cuts + 1], 3, 16, 2)
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True),
        "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
    }
    groups = case.parts if cuts == 2 else (case.parts[0], "|".join(case.parts[1:]))
    bounds = dict.fromkeys(groups, clip) if clip is not None else {}
    samples = _data(name).train
    steps = kinds[optimizer](list(model.parameters()))
    losses = toys.train_uncut(model, case.cuts[:cuts], {0: samples}, agreed, steps, range(1, 3), bounds)

    found = _centralized(name, cuts, optimizer, clip, "fp32")

    assert toys.same(found.model, dict(model.state_dict()))
    assert [m["loss"] for m in found.metrics] == pytest.approx(losses, rel=1e-6)


def test_the_given_model_is_left_as_it_was() -> None:
    split = _split("dense", 1)
    before = copy.deepcopy(split.state_dict())
    _run("vanilla", "dense", 1, ADAM)
    assert toys.same(split.state_dict(), before)


def test_a_frozen_encoder_stays_and_the_rest_trains() -> None:
    model = toys.made(toys.Dense)
    for parameter in (*model.fc1.parameters(), *model.norm1.parameters()):
        parameter.requires_grad_(False)
    start = copy.deepcopy(model.state_dict())
    split = toys.cut(model, ["drop1", "drop2"], toys.rows(4))
    one = {"count": 1, "test_fraction": 0}
    results = [
        cl.run(recipe, split, _data("dense"), clients=one, partition="iid", rounds=2, update=1, optimizer=SGD)
        for recipe in ("centralized", "ushaped", "file_sync", "splitfed_u")
    ]
    for result in results:
        assert toys.same(result.model, results[0].model)
        assert torch.equal(result.model["fc1.weight"], start["fc1.weight"])
        assert not torch.equal(result.model["fc2.weight"], start["fc2.weight"])
        assert not torch.equal(result.model["norm1.running_mean"], start["norm1.running_mean"])
