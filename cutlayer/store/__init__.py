"""Tensors in an object store, and what a split server keeps there: files are the truth, memory is a cache."""

from cutlayer.store.base import Meta, Tensors, TensorStore
from cutlayer.store.memory import MemoryStore
from cutlayer.store.objects import ObjectStore
from cutlayer.store.opening import open_store

__all__ = ["MemoryStore", "Meta", "ObjectStore", "TensorStore", "Tensors", "open_store"]
