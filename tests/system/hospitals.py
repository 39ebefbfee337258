"""Data of clients' own: points at random, all of one form."""

from __future__ import annotations

import torch
from torch import Tensor

Arrays = tuple[Tensor, Tensor, Tensor, Tensor]


def some(seed: int, classes: int) -> Arrays:
    points = torch.randn(120, 8, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(120) % classes
    return points[:90], labels[:90], points[90:], labels[90:]


def one() -> Arrays:
    return some(1, 3)


def two() -> Arrays:
    return some(2, 3)


def three() -> Arrays:
    return some(3, 3)


def odd() -> Arrays:
    return some(4, 5)
