"""File-based synchronization: through files or in memory, one batch at a time or many, the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import toys

import cutlayer as cl
from cutlayer.store import open_store

MODELS = {
    "dense": (toys.Dense, ("drop1", "drop2"), (6,)),
    "conv": (toys.Conv, ("norm1", "drop2"), (1, 7, 7)),
    "skip": (toys.Skip, ("lower", "middle"), (6,)),
    "spectral": (toys.Spectral, ("relu1", "relu2"), (6,)),
}


def _run(recipe: Any, name: str, count: int, **keys: Any) -> cl.Result:
    kind, cuts, shape = MODELS[name]
    data = toys.dataset(toys.rows(50, 0, shape), toys.rows(20, 1, shape))
    options: dict[str, Any] = {"rounds": 2, "batch_size": 8, "optimizer": {"name": "adam", "lr": 0.01}}
    clients = {"count": count, "test_fraction": 0}
    partition = {"name": "quantity", "alpha": 1.0}
    split = toys.cut(toys.made(kind), list(cuts), data.train)
    return cl.run(recipe, split, data, clients=clients, partition=partition, **(options | keys))


@pytest.mark.parametrize("name", MODELS)
def test_an_update_a_batch_with_one_client_is_ushaped(name: str) -> None:
    assert toys.same(_run("file_sync", name, 1, update=1).model, _run("ushaped", name, 1).model)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("update", [1, "clients", {"every": 20, "unit": "samples"}, "round"])
def test_files_and_memory_give_the_same_bits(name: str, update: Any, tmp_path: Path) -> None:
    here = _run("file_sync", name, 3, update=update)
    there = _run("file_sync", name, 3, update=update, store=str(tmp_path / "store"))
    twin = _run("splitfed_u", name, 3, update=update)
    assert toys.same(here.model, there.model)
    assert toys.same(here.model, twin.model)
    assert _counts(here) == _counts(there) == _counts(twin)


def _counts(result: cl.Result) -> list[dict[str, Any]]:
    return [{k: v for k, v in m.items() if k not in ("seconds", "time")} for m in result.metrics]


@pytest.mark.parametrize("codec", ["int8", {"name": "topk", "ratio": 0.3, "feedback": True}])
def test_files_and_memory_agree_under_lossy_codecs(codec: Any, tmp_path: Path) -> None:
    here = _run("file_sync", "dense", 3, codec=codec)
    there = _run("file_sync", "dense", 3, codec=codec, store=str(tmp_path))
    assert toys.same(here.model, there.model)


def test_what_stays_on_disk_does_not_grow_with_the_rounds(tmp_path: Path) -> None:
    sizes, counts = [], []
    for rounds in (1, 4):
        folder = tmp_path / str(rounds)
        _run("file_sync", "dense", 3, rounds=rounds, store=str(folder))
        store = open_store(str(folder))
        sizes.append(store.size_bytes())
        counts.append(len(store.list("runs")))
    assert counts[0] == counts[1] <= 3, "the newest weights and their optimizer state"
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)


@pytest.mark.parametrize(
    ("update", "steps"), [(1, 5), (2, 3), (3, 2), ("round", 1), ({"every": 20, "unit": "samples"}, 3), (100, 1)]
)
def test_the_window_decides_how_often_the_backbone_steps(update: Any, steps: int) -> None:
    """Five batches of ten: what is left over at the end of a round makes a step of its own."""
    data = toys.dataset(toys.rows(50), toys.rows(20, 1))
    split = toys.cut(toys.made(toys.Skip), ["lower", "middle"], data.train)
    clients = {"count": 1, "test_fraction": 0}
    engine = toys.engine("splitfed_u", split, data, update=update, batch_size=10, clients=clients)
    engine.round()
    assert engine.server is not None
    assert engine.server.version(0) == steps
