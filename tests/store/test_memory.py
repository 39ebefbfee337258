"""The store of references: no copies, and its bound."""

from __future__ import annotations

import pytest
import torch

from cutlayer.errors import NoSpace
from cutlayer.store import MemoryStore


def test_tensors_are_kept_by_reference_where_their_form_allows() -> None:
    store, tensor = MemoryStore(), torch.randn(64)
    store.put("a", {"x": tensor, "y": torch.randn(8, 2)[:, 0]})
    got, _ = store.get("a")
    assert got["x"].data_ptr() == tensor.data_ptr()
    assert got["y"].is_contiguous()


def test_what_is_got_can_be_renamed_without_harm() -> None:
    store = MemoryStore()
    store.put("a", {"x": torch.ones(1)}, {"n": 1})
    tensors, meta = store.get("a")
    tensors.clear()
    meta.clear()
    assert store.get("a") == ({"x": torch.ones(1)}, {"n": 1})


def test_the_bound_is_kept() -> None:
    store = MemoryStore(max_bytes=10_000)
    store.put("a", {"x": torch.zeros(2000)})
    with pytest.raises(NoSpace, match="b would make"):
        store.put("b", {"x": torch.zeros(1000)})
    assert store.list("") == ["a"]
    store.put("a", {"x": torch.zeros(1000)})
    store.put("b", {"x": torch.zeros(1000)})
    store.delete("a")
    store.put("c", {"x": torch.zeros(1000)})
    assert store.size_bytes() <= 10_000
