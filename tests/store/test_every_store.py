"""What all stores have in common."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from cutlayer.errors import ConfigError, MissingObject, ObjectExists, StoreError
from cutlayer.store import MemoryStore, ObjectStore, TensorStore, open_store

TENSORS = {
    "a": torch.randn(3, 4),
    "t": torch.randn(3, 4).t(),
    "n": torch.tensor(7),
    "empty": torch.empty(0, 2),
    "half": torch.randn(5).bfloat16(),
}


def test_what_is_put_is_got(store: TensorStore) -> None:
    store.put("runs/r/w/1", TENSORS, {"n": [1, None, "ü"]})
    tensors, meta = store.get("runs/r/w/1")
    assert meta == {"n": [1, None, "ü"]} == store.meta("runs/r/w/1")
    assert list(tensors) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].dtype == tensor.dtype
        assert tensors[name].stride() == tensor.stride()
        assert tensors[name].data_ptr() % 64 == 0


def test_a_put_replaces_unless_it_is_conditional(store: TensorStore) -> None:
    store.put("a/b", {"x": torch.zeros(2)}, if_absent=True)
    with pytest.raises(ObjectExists, match="a/b"):
        store.put("a/b", {"x": torch.ones(2)}, if_absent=True)
    assert store.get("a/b")[0]["x"].sum() == 0
    store.put("a/b", {"x": torch.ones(2)})
    assert store.get("a/b")[0]["x"].sum() == 2


def test_what_is_not_there_is_named(store: TensorStore) -> None:
    for read in (store.get, store.meta):
        with pytest.raises(MissingObject, match="a/b"):
            read("a/b")
    assert not store.exists("a/b")
    store.put("a/b", {})
    assert store.exists("a/b")
    store.delete("a/b")
    store.delete("a/b")
    assert not store.exists("a/b")


def test_folders_list_what_is_in_them(store: TensorStore) -> None:
    for path in ("a/b/2", "a/b/1", "a/c", "ab/c"):
        store.put(path, {"x": torch.zeros(100)})
    assert store.list("a") == store.list("a/") == ["a/b/1", "a/b/2", "a/c"]
    assert store.list("a/b") == ["a/b/1", "a/b/2"]
    assert store.list("") == ["a/b/1", "a/b/2", "a/c", "ab/c"]
    assert store.list("nothing") == []
    assert 4 * 400 < store.size_bytes() < 4 * 800
    assert store.size_bytes("a/b") * 2 == pytest.approx(store.size_bytes(), rel=0.01)
    assert store.size_bytes("nothing") == 0


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", "../a", "a/../b", ".a", "a b", "a#1", "ä"])
def test_strange_paths_are_refused(store: TensorStore, path: str) -> None:
    with pytest.raises(StoreError, match="path"):
        store.put(path, {})


def test_one_of_several_conditional_puts_wins(store: TensorStore) -> None:
    won: list[int] = []

    def race(writer: int) -> None:
        try:
            store.put("a/b", {"x": torch.full((1000,), writer)}, if_absent=True)
        except ObjectExists:
            return
        won.append(writer)

    threads = [threading.Thread(target=race, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert bool((store.get("a/b")[0]["x"] == won[0]).all())


def test_a_large_meta_is_read_without_the_tensors(store: TensorStore) -> None:
    meta = {"members": [[n, "x" * 30] for n in range(2000)]}
    store.put("a", {"x": torch.zeros(10)}, meta)
    assert store.meta("a") == meta


def test_urls_name_stores(tmp_path: Path) -> None:
    assert isinstance(open_store(), MemoryStore)
    assert isinstance(open_store("memory://"), ObjectStore)
    one = open_store(tmp_path / "new" / "store")
    one.put("a", {})
    assert open_store(str(tmp_path / "new" / "store")).exists("a")
    assert open_store(f"file://{tmp_path}/new/store").exists("a")
    with pytest.raises(ConfigError, match="nothing://"):
        open_store("nothing://here")
    with pytest.raises(ConfigError, match="s3://"):
        open_store("s3://bucket", colour="blue")
