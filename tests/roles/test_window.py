"""A window: gradients of one weight version until enough are in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import toys
from torch import nn

from cutlayer.errors import MissingObject
from cutlayer.roles.part import Part
from cutlayer.roles.window import BACKBONE, Window
from cutlayer.store import BatchKey, ForwardRecords, MemoryStore, TensorStore, open_store

SGD = {"name": "sgd", "lr": 1.0}


def _window(store: TensorStore, limit: int | None = 3, unit: str = "batches") -> tuple[Window, Part, ForwardRecords]:
    part = Part(BACKBONE, toys.made(lambda: nn.Linear(2, 1)), SGD)
    records = ForwardRecords(store, "run")
    window = Window(store, "run", part, records, limit=limit, unit=unit)
    window.begin(0, part)
    return window, part, records


def _add(window: Window, client: int, samples: int = 2, value: float = 1.0, batch: int = 0) -> None:
    key = BatchKey(client, 1, 0, batch)
    window.add(key, f"forward-{key.text}", samples, [torch.full((1, 2), value), torch.full((1,), value)], [])


@pytest.mark.parametrize(
    ("unit", "limit", "after"), [("batches", 3, 3), ("samples", 5, 3), ("samples", 6, 3), ("samples", 2, 1)]
)
def test_it_is_full_after_so_many(unit: str, limit: int, after: int) -> None:
    window, _, _ = _window(MemoryStore(), limit, unit)
    for client in range(after):
        assert not window.full
        _add(window, client)
    assert window.full


def test_without_a_limit_only_the_round_closes_it() -> None:
    window, _, _ = _window(MemoryStore(), None)
    for client in range(50):
        _add(window, client)
    assert not window.full


def test_the_mean_is_over_samples_and_duplicates_do_not_count() -> None:
    window, _, _ = _window(MemoryStore())
    assert window.mean() is None
    _add(window, 0, samples=1, value=4.0)
    _add(window, 1, samples=3, value=8.0)
    _add(window, 1, samples=3, value=8.0)
    assert not window.full
    mean = window.mean()
    assert mean is not None
    assert torch.equal(mean.gradients[1], torch.tensor([7.0]))
    assert [m.samples for m in mean.members] == [1, 3]


def test_versions_are_published_and_only_needed_ones_stay(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    window, part, records = _window(store)
    first = part.snapshot()
    waiting = records.put(BatchKey(7, 1, 0, 0), 0, 0, {"h0": torch.ones(1)})
    for version in (1, 2):
        _add(window, 0, batch=version)
        mean = window.mean()
        assert mean is not None
        part.apply(mean.gradients)
        window.close(part, mean.members)
        assert window.mean() is None
        assert window.versions.latest(BACKBONE) == version
    assert window.versions.versions(BACKBONE) == [0, 2], "a forward still waits for version 0"
    pinned = window.pinned(0, part)
    assert toys.same(pinned.snapshot(), first)
    assert not toys.same(part.snapshot(), first)

    records.delete(waiting.uuid)
    _add(window, 0, batch=3)
    mean = window.mean()
    assert mean is not None
    window.close(part, mean.members)
    assert window.versions.versions(BACKBONE) == [3]
    with pytest.raises(MissingObject):
        window.pinned(0, part)


def test_it_begins_anew_where_a_checkpoint_says(tmp_path: Path) -> None:
    """The store may have got ahead of the checkpoint that a run is resumed from."""
    store = open_store(str(tmp_path))
    window, part, records = _window(store)
    at_checkpoint = part.snapshot()
    records.put(BatchKey(0, 1, 0, 0), 0, 0, {"h0": torch.ones(1)})
    _add(window, 0)
    mean = window.mean()
    assert mean is not None
    part.apply(mean.gradients)
    window.close(part, mean.members)
    _add(window, 0, batch=1)

    part.write(at_checkpoint)
    window.begin(0, part)

    assert window.mean() is None
    assert records.notes() == []
    assert window.versions.versions(BACKBONE) == [0]
    assert toys.same(window.pinned(0, part).snapshot(), at_checkpoint)
