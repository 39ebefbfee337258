"""Each batch's gradient is counted once; a store or a ledger that breaks this is found out."""

from __future__ import annotations

from typing import Any

import pytest

from cutlayer.errors import CutlayerError, StoreError
from cutlayer.roles.window import Window
from cutlayer.store import MemoryStore
from cutlayer.store.base import Meta, Tensors
from roles.fleet import Fleet
from roles.test_replicas import KEYS, RECIPES, fleet_free


def counted(fleet: Fleet, rounds: int) -> list[list[list[int]]]:
    return [fleet.replicas[0].states.round(number)["members"] for number in range(1, rounds + 1)]


def batches(fleet: Fleet, rounds: int) -> list[list[list[int]]]:
    return [[list(key) for key in fleet.schedule(number).order] for number in range(1, rounds + 1)]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_members_over_a_run_are_exactly_the_batches(recipe: Any) -> None:
    fleet = Fleet({**KEYS, "algorithm": recipe}, count=3, chaos=0.15)
    fleet.run(2)
    for found, expected in zip(counted(fleet, 2), batches(fleet, 2), strict=True):
        assert sorted(found) == sorted(expected)


class Broken(MemoryStore):
    """Says that everything is written, and forgets, repeats or replaces what lies in one folder, once."""

    def __init__(self, folder: str, how: str) -> None:
        super().__init__()
        self._part, self._how, self._seen = f"/{folder}/", how, 0

    def put(self, path: str, tensors: Tensors, meta: Meta | None = None, *, if_absent: bool = False) -> None:
        self._seen += self._part in path
        if self._part not in path or self._seen != 5:
            super().put(path, tensors, meta, if_absent=if_absent)
        elif self._how == "twice":
            super().put(path, tensors, meta, if_absent=if_absent)
            super().put(f"{path}0", tensors, meta)


@pytest.mark.parametrize(
    ("recipe", "folder", "how"),
    [
        ("file_sync", "deltas", "lost"),
        ("file_sync", "deltas", "twice"),
        ("splitfed_v2", "steps", "lost"),
        ("splitfed_v1", "steps", "lost"),
        ("ushaped", "steps", "lost"),
        ({"name": "cse_fsl", "upload_every": 2}, "steps", "lost"),
    ],
    ids=str,
)
def test_a_store_that_loses_or_doubles_a_batch_is_found_out(recipe: Any, folder: str, how: str) -> None:
    fleet = Fleet({**KEYS, "algorithm": recipe}, count=1)
    fleet.store = Broken(folder, how)
    fleet.replicas = [fleet.replica()]
    with pytest.raises((CutlayerError, AssertionError)) as failure:
        fleet.run(2)
    if isinstance(failure.value, AssertionError):
        assert "wait for each other" in str(failure.value)


@pytest.mark.parametrize("how", ["lost", "twice"])
def test_a_ledger_that_loses_or_doubles_a_gradient_is_found_out(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is made of other batches than it says: the round is not finished, and no model comes of it."""
    honest = Window.mean

    def mean(self: Window, expected: Any = None) -> Any:
        found = honest(self, expected)
        if found is None:
            return None
        members = found.members[1:] if how == "lost" else (*found.members, found.members[0])
        return type(found)(found.gradients, found.buffers, members)

    fleet = Fleet({**KEYS, "algorithm": "file_sync"}, count=1)
    monkeypatch.setattr(Window, "mean", mean)
    with pytest.raises(StoreError, match="missing, or counted twice"):
        fleet.run(1)


def test_the_comparison_of_weights_finds_a_gradient_that_counts_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Window.mean

    def mean(self: Window, expected: Any = None) -> Any:
        found = honest(self, expected)
        if found is None:
            return None
        return type(found)([None if g is None else 2 * g for g in found.gradients], found.buffers, found.members)

    fleet = Fleet({**KEYS, "algorithm": "file_sync", "optimizer": {"name": "sgd", "lr": 0.1}}, count=1)
    with monkeypatch.context() as patch:
        patch.setattr(Window, "mean", mean)
        found = fleet.run(1)
    expected = fleet_free(fleet, 1)
    assert any(not (t == expected[k]).all() for part in found.values() for k, t in part.items() if k in expected)
