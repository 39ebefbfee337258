"""Tensors in an object store, and what a split server keeps there: files are the truth, memory is a cache."""

from cutlayer.store.base import Meta, Tensors, TensorStore
from cutlayer.store.garbage import Collected, collect, usage
from cutlayer.store.keys import BatchKey
from cutlayer.store.ledger import GradientLedger, Member, Total
from cutlayer.store.memory import MemoryStore
from cutlayer.store.objects import ObjectStore
from cutlayer.store.opening import open_store
from cutlayer.store.records import ForwardRecord, ForwardRecords, RecordNote
from cutlayer.store.versions import WeightVersions

__all__ = [
    "BatchKey",
    "Collected",
    "ForwardRecord",
    "ForwardRecords",
    "GradientLedger",
    "Member",
    "MemoryStore",
    "Meta",
    "ObjectStore",
    "RecordNote",
    "TensorStore",
    "Tensors",
    "Total",
    "WeightVersions",
    "collect",
    "open_store",
    "usage",
]
