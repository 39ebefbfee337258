"""What every role of one run agrees on, and what a batch is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from cutlayer import step, streams
from cutlayer.recipes import Recipe
from cutlayer.store import BatchKey

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Settings:
    """The agreement of one run; ``parts`` are the model's, in order; ``autocast`` None means full precision."""

    recipe: Recipe
    parts: tuple[str, ...]
    seed: int = 0
    batch_size: int = 32
    local_epochs: int = 1
    loss: step.Loss = step.cross_entropy
    autocast: torch.dtype | None = None
    device: torch.device = CPU
    proximal: float = 0.0

    def batch_seed(self, key: BatchKey) -> int:
        """Return the seed of a batch: every random number of the batch derives from it."""
        return _batch_seed(self.seed, key)


@lru_cache(maxsize=256)
def _batch_seed(seed: int, key: BatchKey) -> int:
    """Return the seed of a batch; every message about the batch asks for it."""
    return streams.derive(seed, "batch", *key)


def part_seed(batch_seed: int, part: str) -> int:
    """Return the seed at which ``part`` starts its forward on the batch: the cut and the uncut model draw the same."""
    return streams.derive(batch_seed, part)


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch at a client: inputs and targets on the run's device."""

    key: BatchKey
    seed: int
    inputs: tuple[Any, ...]
    targets: Tensor

    @property
    def size(self) -> int:
        """Number of samples."""
        return self.targets.shape[0]
