"""A part in training: optimizer state lives on, travels, and is never reset."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
import toys
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from cutlayer.roles.part import Part

SPECS: list[dict[str, Any]] = [
    {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True},
    {"name": "adam", "lr": 0.01, "amsgrad": True},
    {"name": "adamw", "lr": 0.01, "betas": [0.8, 0.99]},
    {"name": "adagrad", "lr": 0.1},
    {"name": "adadelta"},
    {"name": "adamax"},
    {"name": "asgd"},
    {"name": "nadam"},
    {"name": "radam"},
    {"name": "rmsprop", "momentum": 0.5, "centered": True},
    {"name": "rprop"},
    {"name": "adafactor"},
]
SCHEDULES: list[dict[str, Any]] = [
    {"name": "StepLR", "step_size": 2},
    {"name": "MultiStepLR", "milestones": [1, 3]},
    {"name": "ExponentialLR", "gamma": 0.7},
    {"name": "CosineAnnealingLR", "T_max": 5},
    {"name": "CosineAnnealingWarmRestarts", "T_0": 2},
    {"name": "LinearLR", "total_iters": 3},
    {"name": "PolynomialLR", "total_iters": 4},
    {"name": "ConstantLR", "total_iters": 2},
    {"name": "OneCycleLR", "max_lr": 0.2, "total_steps": 10},
    {"name": "CyclicLR", "base_lr": 0.01, "max_lr": 0.1, "step_size_up": 2, "cycle_momentum": False},
]


class Module(nn.Module):
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("count", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        return self.norm(self.fc(x))


def _part(spec: dict[str, Any], **options: Any) -> Part:
    return Part("backbone", toys.made(Module), spec, **options)


def _work(part: Part, steps: int, first: int = 0) -> None:
    for seed in range(first, first + steps):
        part.begin_round(seed + 1)
        g = torch.Generator().manual_seed(seed)
        part.module(torch.randn(5, 3, generator=g))
        part.apply([torch.randn(w.shape, generator=g) for w in part.weights])


def _all(part: Part) -> dict[str, Tensor]:
    return {**part.snapshot(), "count": part.module.get_buffer("count").clone()}


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: str(s["name"]))
def test_state_is_all_that_later_steps_depend_on(spec: dict[str, Any]) -> None:
    part = _part(spec, clip=1.5)
    _work(part, 3)
    tensors, meta = part.state()
    twin = _part(spec, clip=1.5)
    twin.load_state(tensors, json.loads(json.dumps(meta)))
    assert toys.same(_all(part), _all(twin))
    for each in (part, twin):
        _work(each, 3, 3)
    assert toys.same(_all(part), _all(twin))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: str(s["name"]))
def test_schedules_survive_and_move_by_rounds(schedule: dict[str, Any]) -> None:
    spec = {"name": "sgd", "lr": 0.1, "momentum": 0.5, "schedule": schedule}
    part = _part(spec)
    _work(part, 3)
    tensors, meta = part.state()
    twin = _part(spec)
    twin.load_state(tensors, json.loads(json.dumps(meta)))
    rates = []
    for each in (part, twin):
        _work(each, 4, 3)
        rates.append(each.optimizer.param_groups[0]["lr"])
    assert rates[0] == rates[1]
    assert toys.same(_all(part), _all(twin))


def test_a_client_that_rests_has_the_rate_of_the_round_when_it_comes_back() -> None:
    spec = {"name": "sgd", "lr": 1.0, "schedule": {"name": "ExponentialLR", "gamma": 0.5}}
    part = _part(spec)
    part.begin_round(1)
    assert part.optimizer.param_groups[0]["lr"] == 1.0
    part.begin_round(4)
    assert part.optimizer.param_groups[0]["lr"] == 0.125


def test_loading_weights_leaves_the_moments_alone() -> None:
    part = _part(SPECS[1])
    _work(part, 2)
    before = copy.deepcopy(part.optimizer.state_dict()["state"])
    part.write(_part(SPECS[1]).snapshot())
    after = part.optimizer.state_dict()["state"]
    assert all(torch.equal(before[i][k], after[i][k]) for i in before for k in before[i])


def test_loaded_weights_are_those_that_train() -> None:
    """A load that replaced parameter objects would leave the optimizer with dead ones."""
    part = _part(SPECS[0])
    part.load_state(*_part(SPECS[0]).state())
    before = part.snapshot()
    _work(part, 1)
    assert not torch.equal(part.read()["fc.weight"], before["fc.weight"])
    assert part.read()["fc.weight"] is part.module.get_parameter("fc.weight")
    assert torch.equal(part.read()["frozen"], before["frozen"])


def test_copies_share_nothing() -> None:
    part = _part(SPECS[1])
    _work(part, 2)
    twin = part.copy()
    before = _all(part)
    assert toys.same(before, _all(twin))
    _work(twin, 2, 2)
    assert toys.same(_all(part), before)
    _work(part, 2, 2)
    assert toys.same(_all(part), _all(twin)), "moments were copied too"


def test_a_part_can_be_copied_after_a_forward_of_the_spectral_norm_hook() -> None:
    part = Part("backbone", nn.Sequential(spectral_norm(nn.Linear(3, 4))), SPECS[0])
    part.module(torch.randn(2, 3))
    assert toys.same(part.copy().snapshot(), part.snapshot())


def test_the_gradient_of_a_part_is_clipped_by_its_norm() -> None:
    part = _part({"name": "sgd", "lr": 1.0}, clip=0.5)
    before = part.snapshot()
    part.apply([torch.full_like(w, 3.0) for w in part.weights])
    moved = torch.cat([(part.read()[k] - before[k]).detach().flatten() for k in before if "num" not in k])
    assert float(moved.norm()) == pytest.approx(0.5, rel=1e-4)


def test_parameters_without_gradient_stay() -> None:
    part = _part(SPECS[0])
    before = part.snapshot()
    part.apply([None for _ in part.weights])
    assert toys.same(part.snapshot(), before)


def test_a_part_without_parameters_trains_in_vain() -> None:
    part = Part("head", nn.Softmax(-1), SPECS[1], clip=1.0)
    part.apply([])
    twin = part.copy()
    twin.load_state(*part.state())
    assert part.snapshot() == {}


def test_tied_parameters_are_one() -> None:
    module = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    module[1].weight = module[0].weight
    part = Part("backbone", module, SPECS[0])
    assert len(part.weights) == 1
    part.apply([torch.ones(3, 3)])
    twin = part.copy()
    assert set(part.read()) == {"0.weight", "1.weight"}
    assert torch.equal(twin.read()["0.weight"], twin.read()["1.weight"])
    assert len(twin.weights) == 1
