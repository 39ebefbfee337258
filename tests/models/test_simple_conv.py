"""The fast local response norm against torch's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cutlayer.models.simple_conv import LocalResponseNorm


@pytest.mark.parametrize(("channels", "size", "alpha"), [(64, 9, 1e-3), (5, 9, 1e-3), (16, 4, 1e-1), (8, 1, 1.0)])
def test_values_and_gradients_are_those_of_torch(channels: int, size: int, alpha: float) -> None:
    ours, theirs = LocalResponseNorm(channels, size, alpha), nn.LocalResponseNorm(size, alpha, 0.75, 1.0)
    x = torch.randn(3, channels, 6, 5, requires_grad=True)
    seed = torch.randn(3, channels, 6, 5)
    results, gradients = [], []
    for norm in (ours, theirs):
        results.append(norm(x))
        gradients.append(torch.autograd.grad(results[-1], x, seed)[0])
    torch.testing.assert_close(results[0], results[1], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradients[0], gradients[1], atol=2e-6, rtol=2e-6)


def test_it_is_differentiable_twice() -> None:
    norm = LocalResponseNorm(4, 3, 0.5).double()
    x = torch.randn(2, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(norm, (x,))


def test_it_has_no_state_and_moves_with_the_module() -> None:
    norm = LocalResponseNorm(8)
    assert not norm.state_dict()
    assert not list(norm.parameters())
    assert copy.deepcopy(norm).to("meta").band.device.type == "meta"
