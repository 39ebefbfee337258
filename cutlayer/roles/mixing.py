"""Asynchronous aggregation: a client's parts go into the global ones when they come, the later the less.

    w ← w + α' (w_client − w)          α' = (1 − (1 − α)^(n_i / n̄)) · (1 + lag)^-a

(FedAsync, Xie et al. 2019, arXiv 1903.03934, with polynomial staleness).  The lag is how many updates of others were
mixed in since the client took the parts that it trained.  FedAsync counts every update alike, and a client with few
samples comes more often; here an update counts as many times as its samples are times the mean, so that every sample
has the same say as in FedAvg.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from cutlayer.recipes import Recipe
from cutlayer.roles.weights import Parts

Weights = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True)
class Mixing:
    """The rule of one run.  ``samples`` are those of all its clients; ``working`` of them train at the same time."""

    recipe: Recipe
    samples: Mapping[int, int]
    working: int

    @property
    def bound(self) -> int:
        """The lag beyond which an update counts no more."""
        return self.recipe.staleness * self.working

    def share(self, client: int, lag: int) -> float:
        """Return α': how much of the client's parts goes in; 0 beyond the bound."""
        if lag > self.bound:
            return 0.0
        mean = sum(self.samples.values()) / len(self.samples)
        fresh = 1.0 - (1.0 - self.recipe.mixing) ** (self.samples[client] / mean)
        return float(fresh * (1.0 + lag) ** -self.recipe.staleness_power)


def mixed(now: Weights, update: Weights, share: float) -> Parts:
    """Return ``now`` with ``share`` of the way to ``update`` gone; counters (integer buffers) take the rounded mean.

    With share 1 it is the update itself, bit for bit, with 0 what was.
    """
    if share in (0.0, 1.0):
        return {part: dict(weights) for part, weights in (update if share else now).items()}
    return {
        part: {name: _between(tensor, update[part][name], share) for name, tensor in weights.items()}
        for part, weights in now.items()
    }


def _between(now: Tensor, update: Tensor, share: float) -> Tensor:
    wide = now.double()
    value = wide + share * (update.double() - wide)
    return (value if now.is_floating_point() else value.round()).to(now.dtype)
