"""A store whose reading and writing of objects shows in traces."""

from __future__ import annotations

from cutlayer.services.tracing import span
from cutlayer.store.base import Meta, Paths, Tensors, TensorStore


class TracedStore:
    """``store``, with a span for whatever reads or writes a whole object or looks through a folder."""

    def __init__(self, store: TensorStore) -> None:
        self._store = store

    def put(self, path: str, tensors: Tensors, meta: Meta | None = None, *, if_absent: bool = False) -> None:
        with span("store put", path=path):
            self._store.put(path, tensors, meta, if_absent=if_absent)

    def get(self, path: str) -> tuple[Tensors, Meta]:
        with span("store get", path=path):
            return self._store.get(path)

    def meta(self, path: str) -> Meta:
        with span("store meta", path=path):
            return self._store.meta(path)

    def delete(self, path: str) -> None:
        with span("store delete", path=path):
            self._store.delete(path)

    def recycle(self, path: str) -> None:
        with span("store delete", path=path):
            self._store.recycle(path)

    def list(self, prefix: str) -> Paths:
        with span("store list", path=prefix):
            return self._store.list(prefix)

    def exists(self, path: str) -> bool:
        return self._store.exists(path)

    def size_bytes(self, prefix: str = "") -> int:
        return self._store.size_bytes(prefix)
