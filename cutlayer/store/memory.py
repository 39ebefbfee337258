"""A store in this process's memory, for runs in one process: it keeps references and encodes nothing."""

from __future__ import annotations

import threading

from cutlayer import wire
from cutlayer.errors import MissingObject, NoSpace, ObjectExists
from cutlayer.store.base import Meta, Paths, Tensors, check


class MemoryStore:
    """Keeps tensors in the form that they have after a store on disk (`wire.dense`), so that both give the same bits.

    Args:
        max_bytes: the most that all objects together may hold, counted as their encoded size; None: no bound.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self._objects: dict[str, tuple[Tensors, Meta]] = {}
        self._folders: dict[str, set[str]] = {}  # so that listing one folder does not walk over all objects
        self._max_bytes = max_bytes
        self._bytes = 0
        self._lock = threading.Lock()

    def put(self, path: str, tensors: Tensors, meta: Meta | None = None, *, if_absent: bool = False) -> None:
        if path not in self._objects:
            check(path)
        entry = ({name: wire.dense(tensor) for name, tensor in tensors.items()}, meta or {})
        with self._lock:
            old = self._objects.get(path)
            if old is not None and if_absent:
                raise ObjectExists(f"{path} exists already in the memory store; another writer was first")
            if self._max_bytes is not None:
                total = self._bytes + _size(path, entry) - (0 if old is None else _size(path, old))
                if total > self._max_bytes:
                    raise NoSpace(
                        f"{path} would make the memory store hold {total} bytes of {self._max_bytes}; raise its bound"
                    )
                self._bytes = total
            self._objects[path] = entry
            if old is None:
                self._folders.setdefault(path.rpartition("/")[0], set()).add(path)

    def get(self, path: str) -> tuple[Tensors, Meta]:
        try:
            tensors, meta = self._objects[path]
        except KeyError:
            raise MissingObject(f"{path} is not in the memory store; it was never written, or deleted") from None
        return dict(tensors), dict(meta)

    def meta(self, path: str) -> Meta:
        try:
            return dict(self._objects[path][1])
        except KeyError:
            raise MissingObject(f"{path} is not in the memory store; it was never written, or deleted") from None

    def delete(self, path: str) -> None:
        with self._lock:
            entry = self._objects.pop(path, None)
            if entry is None:
                return
            if self._max_bytes is not None:
                self._bytes -= _size(path, entry)
            folder = path.rpartition("/")[0]
            self._folders[folder].remove(path)
            if not self._folders[folder]:
                del self._folders[folder]

    def recycle(self, path: str) -> None:
        self.delete(path)

    def list(self, prefix: str) -> Paths:
        prefix = prefix.rstrip("/")
        inside = f"{prefix}/" if prefix else ""
        with self._lock:
            found = [path for name, paths in self._folders.items() if f"{name}/".startswith(inside) for path in paths]
        return sorted(found)

    def exists(self, path: str) -> bool:
        return path in self._objects

    def size_bytes(self, prefix: str = "") -> int:
        return sum(_size(path, self._objects[path]) for path in self.list(prefix) if path in self._objects)


def _size(path: str, entry: tuple[Tensors, Meta]) -> int:
    return wire.size(wire.Message(path, *entry))
