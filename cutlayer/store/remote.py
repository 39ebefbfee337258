"""Bytes as objects in S3, Google or Azure storage, or in memory, through `obstore`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import obstore
from obstore import exceptions

from cutlayer.store.folder import Buffer


class Remote:
    """Reads and writes the objects of one of obstore's stores.

    Paths are checked by the caller.  Raises what obstore does.
    """

    def __init__(self, store: Any) -> None:
        self.store = store

    def put(self, path: str, buffers: Sequence[Buffer], *, if_absent: bool) -> bool:
        """Write ``buffers``, one after another, as one object; False if it was there already."""
        mode: Any = "create" if if_absent else "overwrite"
        try:
            obstore.put(self.store, path, b"".join(buffers), mode=mode, use_multipart=False)
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            return False
        return True

    def get(self, path: str, most: int | None = None) -> bytes | memoryview:
        """Return an object's bytes, or its first ``most``."""
        if most is None:
            return memoryview(obstore.get(self.store, path).bytes())
        if not obstore.head(self.store, path)["size"]:
            return b""  # no range of nothing can be asked for
        return bytes(obstore.get_range(self.store, path, start=0, end=most))

    def delete(self, path: str) -> None:
        """Remove an object."""
        obstore.delete(self.store, path)

    def recycle(self, path: str) -> None:
        """Remove an object."""
        self.delete(path)

    def exists(self, path: str) -> bool:
        """Say whether there is an object."""
        try:
            obstore.head(self.store, path)
        except (FileNotFoundError, exceptions.NotFoundError):
            return False
        return True

    def entries(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield path and size of every object under the folder ``prefix``."""
        for chunk in obstore.list(self.store, prefix or None):
            for entry in chunk:
                yield entry["path"], entry["size"]
