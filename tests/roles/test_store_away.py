"""A store that seems empty, as where a network file system is not mounted: no round begins from the first weights."""

from __future__ import annotations

import pytest
import torch

from cutlayer.errors import MissingObject
from cutlayer.store import MemoryStore
from cutlayer.store.base import Meta, Paths, Tensors
from cutlayer.wire import Message
from roles.fleet import Fleet
from roles.test_replicas import KEYS, fleet_free


class Away(MemoryStore):
    """Can be away: then nothing is there."""

    away = False

    def get(self, path: str) -> tuple[Tensors, Meta]:
        self._check(path)
        return super().get(path)

    def meta(self, path: str) -> Meta:
        self._check(path)
        return super().meta(path)

    def list(self, prefix: str) -> Paths:
        return [] if self.away else super().list(prefix)

    def exists(self, path: str) -> bool:
        return not self.away and super().exists(path)

    def _check(self, path: str) -> None:
        if self.away:
            raise MissingObject(f"{path} is not here")


class Forgetful(Fleet):
    """Loses what its replica has in memory before every request of the second round, while the store is away."""

    refused = 0

    def ask(self, message: Message) -> Message:
        store, replica = self.store, self.replicas[0]
        assert isinstance(store, Away)
        if self.round == 2:
            reply = super().ask(message)  # so that the round is known to have begun
            for copy in list(getattr(replica, "_at", {})):
                replica._forget(copy)
            replica._replies.clear()
            store.away = True
            with pytest.raises(MissingObject):
                replica.answer(message)
            store.away = False
            self.refused += 1
            return reply
        return super().ask(message)


@pytest.mark.parametrize("recipe", ["splitfed_v1", "splitfed_v2"])
def test_a_round_waits_for_a_store_that_is_away(recipe: str) -> None:
    fleet = Forgetful({**KEYS, "algorithm": recipe}, count=1)
    fleet.store = Away()
    fleet.replicas = [fleet.replica()]
    fleet.run(2)
    assert fleet.refused
    expected = fleet_free(fleet, 2)
    for part in fleet.weights().values():
        assert all(torch.equal(tensor, expected[key]) for key, tensor in part.items() if key in expected)
