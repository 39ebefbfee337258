"""The coordinator: who takes part in a round, and in which order the server takes their batches.

Pure functions of the seed and the round's number, without torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cutlayer.recipes import Recipe
from cutlayer.seeds import shuffled


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
    chosen = sorted(shuffled(clients, seed, "participants", round_number)[:count])
    if recipe.schedule == "sequential" and recipe.server == "shared":
        chosen = [chosen[i] for i in shuffled(count, seed, "turns", round_number)]
    return Plan(round_number, tuple(chosen))


def order(recipe: Recipe, turns: Mapping[int, int]) -> Iterator[int]:
    """Yield whose batch is next, over a round; ``turns`` are the batches of each client, clients in the plan's order.

    A relay and a sequence go client by client.  Interleaved is one batch of every client that has one left, again and
    again.
    """
    if recipe.schedule != "interleaved":
        for client, count in turns.items():
            yield from [client] * count
        return
    for turn in range(max(turns.values(), default=0)):
        yield from [client for client, count in turns.items() if count > turn]
