"""FSL-SAGE's alignment: what it aims at, what it leaves alone, and that it gets nearer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cutlayer import step
from cutlayer.recipes import get
from cutlayer.roles.alignment import Aligner
from cutlayer.roles.part import Part
from cutlayer.roles.settings import Settings

SGD = {"name": "sgd", "lr": 0.05}
ADAM = {"name": "adam", "lr": 0.003}


class Backbone(nn.Sequential):
    def __init__(self, norm: bool = False) -> None:
        layers: list[nn.Module] = [nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, toys.CLASSES)]
        super().__init__(*(layers[:1] + [nn.BatchNorm1d(16)] * norm + layers[1:]))


def _aligner(auxiliary: nn.Module, optimizer: Any = SGD, autocast: torch.dtype | None = None, **axes: Any) -> Aligner:
    recipe = get({"name": "fsl_sage", **axes})
    return Aligner(
        Part("auxiliary", auxiliary, optimizer), Settings(recipe, ("encoder", "backbone"), autocast=autocast)
    )


def _uploads(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    samples = toys.rows(n, seed)
    return samples.inputs[0], samples.targets


def _true(backbone: nn.Module, h: Tensor, y: Tensor) -> Tensor:
    """Return the true cut gradient of every sample, by ordinary autograd on each alone."""
    h = h.clone().requires_grad_()
    losses = nn.functional.cross_entropy(backbone(h), y, reduction="sum")
    (found,) = torch.autograd.grad(losses, h)
    return found


def _estimate(auxiliary: nn.Module, h: Tensor, y: Tensor) -> Tensor:
    (found,) = step.train(auxiliary, (h,), y, step.cross_entropy, 0)[2]
    assert found is not None
    return found


def _gap(auxiliary: nn.Module, backbone: nn.Module, h: Tensor, y: Tensor) -> float:
    return float((_estimate(auxiliary, h, y) * len(y) - _true(backbone, h, y)).norm() / _true(backbone, h, y).norm())


@pytest.mark.parametrize("optimizer", [SGD, ADAM])
@pytest.mark.parametrize("epochs", [1, 5])
def test_an_auxiliary_equal_to_the_backbone_estimates_the_true_gradient(optimizer: Any, epochs: int) -> None:
    backbone = toys.made(Backbone)
    aligner = _aligner(copy.deepcopy(backbone), optimizer, align_epochs=epochs, align_batch=16)
    h, y = _uploads(50)
    aligner.keep(0, (h,), y)
    assert aligner.align(0, backbone, 1) is not None
    fresh, labels = _uploads(20, 7)
    expected = _true(backbone, fresh, labels) / 20
    found = _estimate(aligner.auxiliary(0).module, fresh, labels)
    assert float((found - expected).norm() / expected.norm()) <= 1e-5


@settings(max_examples=10, deadline=None)
@given(n=st.integers(2, 600), seed=st.integers(0, 1000))
def test_the_target_is_every_samples_own_gradient(n: int, seed: int) -> None:
    """Per-sample scale: neither the size of the buffer nor that of a mini-batch is in it."""
    backbone = toys.made(Backbone, seed)
    h, y = _uploads(n, seed)
    (found,) = _aligner(toys.made(Backbone)).target(backbone, [h], y, 0)
    assert found is not None
    torch.testing.assert_close(found, _true(backbone, h, y), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch", [32, 8, 1])
def test_an_epoch_is_the_same_however_the_buffer_is_batched(batch: int) -> None:
    """At a tiny rate an epoch adds up the steps of its mini-batches: means over samples, with targets of their own."""
    backbone, start = toys.made(Backbone).double(), toys.made(Backbone, 1).double()
    h, y = _uploads(64)

    def moved(batch: int) -> Tensor:
        rate = {"name": "sgd", "lr": 1e-6 * batch}
        aligner = _aligner(copy.deepcopy(start), rate, align_epochs=1, align_batch=batch)
        aligner.keep(0, (h.double(),), y)
        found = aligner.align(0, backbone, 1)
        assert found is not None
        return torch.cat([(found[k] - v).flatten() for k, v in start.state_dict().items()])

    torch.testing.assert_close(moved(batch), moved(64), rtol=1e-2, atol=1e-9)


@pytest.mark.parametrize("n", [40, 257])
def test_the_backbone_only_gives_gradients(n: int) -> None:
    backbone = toys.made(Backbone, norm=True)
    before = copy.deepcopy(backbone.state_dict())
    aligner = _aligner(toys.made(Backbone, 1), ADAM, align_epochs=3, align_batch=16)
    aligner.keep(0, _uploads(n)[:1], _uploads(n)[1])
    aligner.align(0, backbone, 1)
    assert toys.same(dict(backbone.state_dict()), before)
    assert all(p.grad is None for p in backbone.parameters())


@pytest.mark.parametrize("kind", ["small", "backbone"])
def test_aligning_narrows_the_gap(kind: str) -> None:
    backbone = toys.made(Backbone)
    auxiliary = nn.Linear(6, toys.CLASSES) if kind == "small" else toys.made(Backbone, 1)
    aligner = _aligner(auxiliary, {"name": "adam", "lr": 0.01}, align_epochs=60, align_batch=32)
    h, y = _uploads(96)
    aligner.keep(3, (h,), y)
    fresh, labels = _uploads(40, 5)
    before = _gap(auxiliary, backbone, fresh, labels)
    aligner.align(3, backbone, 1)
    after = _gap(aligner.auxiliary(3).module, backbone, fresh, labels)
    assert after < 0.7 * before


def test_only_the_newest_samples_are_kept() -> None:
    aligner = _aligner(toys.made(Backbone), buffer=25)
    h, y = _uploads(60)
    for start in range(0, 60, 10):
        aligner.keep(1, (h[start : start + 10],), y[start : start + 10])
    aligner.keep(2, (h[:3],), y[:3])
    assert torch.equal(aligner.kept[1][0][0], h[-25:])
    assert torch.equal(aligner.kept[1][1], y[-25:])
    assert len(aligner.kept[2][1]) == 3


def test_nothing_uploaded_means_nothing_to_align() -> None:
    assert _aligner(toys.made(Backbone)).align(0, toys.made(Backbone), 1) is None


def test_clients_have_auxiliaries_of_their_own_whose_optimizers_live_on() -> None:
    backbone = toys.made(Backbone)
    aligner = _aligner(toys.made(Backbone, 1), {"name": "adam", "lr": 0.01}, align_epochs=2)
    for client in (0, 1):
        h, y = _uploads(20, client)
        aligner.keep(client, (h,), y)
        aligner.align(client, backbone, 1)
    left, right = aligner.auxiliary(0), aligner.auxiliary(1)
    assert not toys.same(left.snapshot(), right.snapshot())
    aligner.align(0, backbone, 2)
    assert int(left.optimizer.state[left.weights[0]]["step"]) == 4


def test_values_that_the_auxiliary_ignores_are_no_obstacle() -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, toys.CLASSES)

        def forward(self, h: Tensor, skip: Tensor) -> Tensor:
            return self.fc(h)

    class Both(First):
        def forward(self, h: Tensor, skip: Tensor) -> Tensor:
            return self.fc(h + skip)

    auxiliary = First()
    before = copy.deepcopy(auxiliary.state_dict())
    aligner = _aligner(auxiliary, align_epochs=2)
    h, y = _uploads(20)
    aligner.keep(0, (h, 2 * h), y)
    found = aligner.align(0, Both(), 1)
    assert found is not None
    assert not torch.equal(found["fc.weight"], before["fc.weight"])


def test_mixed_precision() -> None:
    backbone = toys.made(Backbone)
    aligner = _aligner(toys.made(Backbone, 1), ADAM, torch.bfloat16, align_epochs=2)
    h, y = _uploads(20)
    aligner.keep(0, (h.to(torch.bfloat16),), y)
    found = aligner.align(0, backbone, 1)
    assert found is not None
    assert all(bool(v.isfinite().all()) for v in found.values())
