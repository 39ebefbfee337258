"""Whole numbers in given proportions, and splits that keep the mixture of labels."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutlayer.errors import ConfigError
from cutlayer.streams import generator


def apportion(total: int, weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Split ``total`` into whole numbers proportional to ``weights`` by largest remainders; ties go to the first.

    Law: they sum to ``total``, and each is within one of its exact share.
    """
    exact = total * (weights / weights.sum())
    whole: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    missing = total - int(whole.sum())
    if missing > 0:
        whole[np.argsort(whole - exact, kind="stable")[:missing]] += 1
    return whole


def stratified(labels: Tensor, fraction: float, seed: int, *names: str | int) -> tuple[Tensor, Tensor]:
    """Split 0..n-1 into (rest, part) with round(fraction * n) samples in ``part``, each label in proportion.

    Both are sorted int64 index tensors.  ``labels`` int64 (n,); the draw is the stream ``names`` under ``seed``.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"a test fraction must be in [0, 1), and {fraction} came: 0.2 keeps a fifth for testing")
    n = len(labels)
    size = min(round(fraction * n), n - 1) if n else 0
    chosen = torch.zeros(n, dtype=torch.bool)
    if size > 0:
        values, counts = torch.unique(labels, return_counts=True)
        random = generator(seed, *names)
        for value, take in zip(values, apportion(size, counts.numpy().astype(np.float64)), strict=True):
            members = torch.nonzero(labels == value).flatten()
            chosen[members[torch.randperm(len(members), generator=random)[: int(take)]]] = True
    index = torch.arange(n)
    return index[~chosen], index[chosen]
