"""A round laid out: which batches there are, in which order the server takes them, and which share a step.

A pure function of the recipe, the plan and the clients' sample counts: every replica lays out the same round, and the
local engine goes through it in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from cutlayer.data import batch_sizes
from cutlayer.errors import WireError
from cutlayer.roles.coordinator import order
from cutlayer.roles.settings import Settings
from cutlayer.store import BatchKey

SHARED = -1
"""The one shared copy of the backbone, where clients are the names of theirs."""


@dataclass(frozen=True)
class Schedule:
    """Round ``round`` with the ``samples`` of its clients, in the plan's order."""

    settings: Settings
    round: int
    samples: Mapping[int, int]

    @cached_property
    def sizes(self) -> dict[int, list[int]]:
        """The batch sizes of one local epoch, by client."""
        return {client: batch_sizes(n, self.settings.batch_size) for client, n in self.samples.items()}

    @cached_property
    def turns(self) -> dict[int, int]:
        """How many batches every client goes through."""
        return {client: len(sizes) * self.settings.local_epochs for client, sizes in self.sizes.items()}

    def key(self, client: int, turn: int) -> BatchKey:
        """Return the key of a client's batch number ``turn`` of the round."""
        epoch, batch = divmod(turn, len(self.sizes[client]))
        return BatchKey(client, self.round, epoch, batch)

    def turn(self, key: BatchKey) -> int:
        """Return the number of a batch among the client's of the round.  Raises WireError if it is not in the round."""
        sizes = self.sizes.get(key.client)
        if (
            sizes is None
            or key.round != self.round
            or key.batch >= len(sizes)
            or key.epoch >= self.settings.local_epochs
        ):
            raise WireError(f"batch {key.text} is not in the plan of round {self.round}; ask for the task again")
        return key.epoch * len(sizes) + key.batch

    def check(self, key: BatchKey, samples: int) -> None:
        """Raise WireError where a batch does not have the size that it has in the plan."""
        self.turn(key)
        expected = self.sizes[key.client][key.batch]
        if samples != expected:
            raise WireError(f"batch {key.text} has {expected} samples in the plan, and {samples} came")

    def sent(self, turn: int) -> bool:
        """Say whether the batch number ``turn`` of a client is sent to the server."""
        return turn % self.settings.recipe.upload_every == 0

    @cached_property
    def order(self) -> list[BatchKey]:
        """The batches that reach the server, in its order."""
        seen = dict.fromkeys(self.turns, -1)
        found = []
        for client in order(self.settings.recipe, self.turns):
            seen[client] += 1
            if self.sent(seen[client]):
                found.append(self.key(client, seen[client]))
        return found

    def copy_of(self, client: int) -> int:
        """Return which copy of the backbone serves ``client``, and so which order its batches are in."""
        recipe = self.settings.recipe
        return client if recipe.server == "per_client" and not recipe.grouped else SHARED

    @cached_property
    def units(self) -> dict[int, list[tuple[BatchKey, ...]]]:
        """By copy: the batches that the server takes at once, in order (one each, unless the recipe groups them)."""
        found: dict[int, list[tuple[BatchKey, ...]]] = {}
        if self.settings.recipe.grouped:
            longest = max(self.turns.values(), default=0)
            found[SHARED] = [tuple(self.key(c, t) for c, n in self.turns.items() if n > t) for t in range(longest)]
            return found
        for key in self.order:
            found.setdefault(self.copy_of(key.client), []).append((key,))
        return found

    @cached_property
    def position(self) -> dict[BatchKey, int]:
        """Where a batch stands among the units of its copy."""
        return {key: index for units in self.units.values() for index, unit in enumerate(units) for key in unit}

    def windows(self, limit: int | None, unit: str) -> list[list[BatchKey]]:
        """Return the batches of every step of the backbone, where it steps on many at once; None: on all."""
        found: list[list[BatchKey]] = []
        count = 0
        for key in self.order:
            if not found or (limit is not None and count >= limit):
                found.append([])
                count = 0
            found[-1].append(key)
            count += 1 if unit == "batches" else self.sizes[key.client][key.batch]
        return found


def window_limit(update: Mapping[str, object], fraction: float, clients: int) -> int | None:
    """Return after how many batches or samples a window closes; None: when the round does."""
    every = update["every"]
    if every == "clients":
        return max(1, round(fraction * clients))
    return None if every == "round" else int(str(every))
