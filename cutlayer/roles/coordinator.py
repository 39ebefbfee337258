"""The coordinator: who takes part in a round, in which order.  Pure functions of the seed and the round's number."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cutlayer import streams
from cutlayer.recipes import Recipe


@dataclass(frozen=True)
class Plan:
    """A round: its number (from 1) and its clients in their order."""

    round: int
    clients: tuple[int, ...]


def plan(recipe: Recipe, seed: int, round_number: int, clients: int, fraction: float = 1.0) -> Plan:
    """Return the plan of a round: ``fraction`` of the ``clients``, at least one, drawn without replacement.

    Clients of a shared backbone that come one after another do so in random order (SplitFed v2); otherwise by number.
    """
    count = max(1, round(fraction * clients))
    order = torch.randperm(clients, generator=streams.generator(seed, "participants", round_number)).tolist()
    chosen = sorted(order[:count])
    if recipe.schedule == "sequential" and recipe.server == "shared":
        turn = torch.randperm(count, generator=streams.generator(seed, "turns", round_number)).tolist()
        chosen = [chosen[i] for i in turn]
    return Plan(round_number, tuple(chosen))
