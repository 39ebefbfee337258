"""Tensors in an object store, and what a split server keeps there: files are the truth, memory is a cache."""

from cutlayer.store.base import Meta, Tensors, TensorStore
from cutlayer.store.memory import MemoryStore

__all__ = ["MemoryStore", "Meta", "TensorStore", "Tensors"]
