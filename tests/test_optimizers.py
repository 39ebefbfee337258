"""Optimizers and schedules of torch.optim by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cutlayer.errors import ConfigError
from cutlayer.optimizers import check, optimizer, schedule


def _weights() -> list[torch.Tensor]:
    return [torch.ones(2, requires_grad=True)]


@pytest.mark.parametrize("name", ["sgd", "SGD", "adam", "Adam", "adamw", "AdamW", "rmsprop", "NAdam", "adafactor"])
def test_names_are_those_of_torch_in_any_case(name: str) -> None:
    assert type(optimizer({"name": name}, _weights())).__name__.lower() == name.lower()


def test_arguments_reach_the_optimizer() -> None:
    found = optimizer({"name": "sgd", "lr": 0.3, "momentum": 0.5, "weight_decay": 1e-4, "nesterov": True}, _weights())
    group = found.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (0.3, 0.5, 1e-4, True)


def test_a_part_without_parameters_has_an_optimizer_all_the_same() -> None:
    optimizer({"name": "adam"}, []).step()


def test_schedules_are_counted_by_their_owner() -> None:
    spec = {"name": "sgd", "lr": 1.0, "schedule": {"name": "steplr", "step_size": 2, "gamma": 0.1}}
    steps = optimizer(spec, _weights())
    found = schedule(spec, steps)
    assert found is not None
    rates = []
    for _ in range(5):
        rates.append(steps.param_groups[0]["lr"])
        steps.step()
        found.step()
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01])


def test_no_schedule_is_none() -> None:
    assert schedule({"name": "sgd"}, optimizer({"name": "sgd"}, _weights())) is None
    named = {"name": "sgd", "schedule": "ConstantLR"}
    assert schedule(named, optimizer(named, _weights())) is not None


def test_a_schedule_must_last_as_long_as_the_run() -> None:
    spec = {"name": "sgd", "schedule": {"name": "OneCycleLR", "max_lr": 0.1, "total_steps": 5}}
    check(spec, 5)
    with pytest.raises(ConfigError, match="schedule OneCycleLR does not last 7 rounds"):
        check(spec, 7)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "adamm"}, "optimizer must be a class of torch.optim .*Adam.*got 'adamm'"),
        ({"name": "LBFGS"}, "got 'LBFGS'"),
        ({"name": "Optimizer"}, "got 'Optimizer'"),
        ({"name": "sgd", "rate": 0.1}, "optimizer SGD has no argument 'rate'; it has: lr, momentum"),
        ({"name": "sgd", "params": []}, "has no argument 'params'"),
        ({"name": "sgd", "lr": "fast"}, "optimizer SGD refuses its arguments"),
        ({"name": "sgd", "lr": -1}, "refuses its arguments: Invalid learning rate"),
        ({"name": "adam", "betas": [2, 3]}, "refuses its arguments"),
        ({"name": "sgd", "nesterov": True}, "refuses its arguments"),
        ({"name": "sgd", "schedule": "weekly"}, "schedule must be a class of torch.optim.lr_scheduler"),
        ({"name": "sgd", "schedule": {"step_size": 3}}, "schedule must be a class"),
        ({"name": "sgd", "schedule": {"name": "StepLR"}}, "schedule StepLR refuses its arguments.*step_size"),
        ({"name": "sgd", "schedule": {"name": "StepLR", "size": 1}}, "schedule StepLR has no argument 'size'"),
        ({"name": "sgd", "schedule": "ReduceLROnPlateau"}, "got 'ReduceLROnPlateau'"),
        ({"name": "sgd", "schedule": 7}, "schedule must be"),
    ],
)
def test_wrong_specifications_are_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(spec)
