"""All clients' data in one place, in the order of the clients."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cutlayer.data import Share, Subset


def pooled(shares: Sequence[Share]) -> list[Share]:
    """Return one share that trains on what all ``shares`` train on; its own test split is empty."""
    first = shares[0].train
    together = Subset(first.base, torch.cat([share.train.index for share in shares]))
    return [Share(together, Subset(first.base, torch.empty(0, dtype=torch.int64)))]
