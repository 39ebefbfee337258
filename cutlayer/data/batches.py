"""Batches: a shuffled order of samples cut into index tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from cutlayer.errors import ConfigError


def batches(n: int, batch_size: int, order: torch.Generator | int | None) -> list[Tensor]:
    """Return int64 index tensors that together hold 0..n-1, each once, ``batch_size`` in each but the last.

    ``order`` is a generator (drawn from once) or a seed for the shuffle; None keeps the order, for evaluation.
    A last batch of one sample joins the batch before it (which then has ``batch_size + 1``), because BatchNorm cannot
    train on one sample; a ``batch_size`` of 1 asks for single samples and gets them.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, and {batch_size} came: choose a positive number")
    if order is None:
        shuffled = torch.arange(n)
    else:
        generator = order if isinstance(order, torch.Generator) else torch.Generator().manual_seed(order)
        shuffled = torch.randperm(n, generator=generator)
    if n == 0:
        return []
    cut = list(torch.split(shuffled, batch_size))
    if batch_size > 1 and len(cut) > 1 and len(cut[-1]) == 1:
        cut[-2:] = [shuffled[(len(cut) - 2) * batch_size :]]
    return cut


def batch_sizes(n: int, batch_size: int) -> list[int]:
    """Return the sizes of the batches that :func:`batches` makes of ``n`` samples."""
    found = [min(batch_size, n - start) for start in range(0, n, batch_size)]
    if batch_size > 1 and len(found) > 1 and found[-1] == 1:
        found[-2:] = [batch_size + 1]
    return found
