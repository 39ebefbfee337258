"""Objects torn at random while a run goes on: each is refused by name, none is ever read as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cutlayer.errors import DamagedObject
from cutlayer.store import ObjectStore
from cutlayer.wire import Message
from roles.fleet import Fleet
from roles.test_replicas import KEYS, fleet_free


class Tearing(Fleet):
    """A fleet of which now and then all replicas die and one object is torn, until somebody has met it."""

    def __init__(self, keys: dict[str, Any], folder: Path, seed: int) -> None:
        super().__init__(keys, count=2, seed=seed)
        self.folder = folder
        self.store = ObjectStore(folder)
        self.replicas = [self.replica() for _ in self.replicas]
        self.torn: tuple[Path, bytes] | None = None
        self.met = 0

    def tear(self) -> None:
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        if self.torn is None and files and self.random.random() < 0.3:
            path = self.random.choice(files)
            content = path.read_bytes()
            self.torn = path, content
            path.write_bytes(content[: self.random.randrange(len(content))])
            self.replicas = [self.replica() for _ in self.replicas]

    def mend(self, error: DamagedObject) -> None:
        assert self.torn is not None
        path, content = self.torn
        assert str(path.relative_to(self.folder)) in str(error)
        path.write_bytes(content)
        self.torn = None
        self.met += 1

    def ask(self, message: Message) -> Message:
        self.tear()
        while True:
            try:
                return super().ask(message)
            except DamagedObject as error:
                self.mend(error)

    def finish(self) -> None:
        self.tear()
        while True:
            try:
                return super().finish()
            except DamagedObject as error:
                self.mend(error)


@pytest.mark.parametrize("recipe", ["file_sync", "splitfed_u", "splitfed_v1", "splitfed_v2", "ushaped"])
def test_torn_objects_are_named_and_change_nothing(recipe: str, tmp_path: Path) -> None:
    fleet = Tearing({**KEYS, "algorithm": recipe}, tmp_path, seed=7)
    fleet.run(3)
    assert fleet.met
    if fleet.torn is not None:
        fleet.torn[0].write_bytes(fleet.torn[1])
    expected = fleet_free(fleet, 3)
    for part in fleet.weights().values():
        assert all(torch.equal(tensor, expected[key]) for key, tensor in part.items() if key in expected)
