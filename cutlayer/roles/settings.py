"""What every role of one run agrees on, and the key that names a batch."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cutlayer import step, streams
from cutlayer.recipes import Recipe


class BatchKey(NamedTuple):
    """Names one batch of a run; a request with a known key counts nothing."""

    round: int
    client: int
    epoch: int
    batch: int


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
    device: torch.device = torch.device("cpu")
    proximal: float = 0.0

    def batch_seed(self, key: BatchKey) -> int:
        """Return the seed of a batch: every random number of the batch derives from it."""
        return streams.derive(self.seed, "batch", *key)

    def forward_id(self, key: BatchKey) -> str:
        """Return the UUID of a batch's forward record: the same for every retry."""
        bits = streams.derive(self.seed, "forward", *key) << 64 | streams.derive(self.seed, "forward-low", *key)
        return str(uuid.UUID(int=bits, version=4))


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
        return len(self.targets)
