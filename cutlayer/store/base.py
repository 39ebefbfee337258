"""What a store is: tensors and JSON meta under paths such as ``runs/<run>/weights/backbone/00000007``.

Objects are written whole or not at all and read whole or with an error.  A conditional put (``if_absent``) is atomic
among all processes that use the store: exactly one of several wins.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

from torch import Tensor

from cutlayer.errors import StoreError

Tensors = dict[str, Tensor]
Meta = dict[str, Any]
Paths = list[str]

_PATH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._=@+-]*(/[A-Za-z0-9_-][A-Za-z0-9._=@+-]*)*")


class TensorStore(Protocol):
    """Where tensors are kept.  What is put must not be changed in place afterwards; what is got, neither."""

    def put(self, path: str, tensors: Tensors, meta: Meta | None = None, *, if_absent: bool = False) -> None:
        """Write an object, replacing what was there.

        Raises:
            ObjectExists: ``if_absent``, and the object is there.
            NoSpace: the disk, the quota or the bound is full; nothing was written.
            StoreError: the store failed, or the path is none.
        """
        ...

    def get(self, path: str) -> tuple[Tensors, Meta]:
        """Return an object's tensors and meta.

        Raises:
            MissingObject: it is not there.
            DamagedObject: it is torn, was changed, or was not written by cutlayer.
        """
        ...

    def meta(self, path: str) -> Meta:
        """Return an object's meta without its tensors; their integrity is not checked.

        Raises:
            MissingObject: it is not there.
            DamagedObject: its beginning is damaged or foreign.
        """
        ...

    def delete(self, path: str) -> None:
        """Remove an object; it is no error if it is not there."""
        ...

    def recycle(self, path: str) -> None:
        """Remove an object that is only of use to whoever goes through the store: its room may be used again.

        Not for objects that others may have opened as files, as they do with weights.
        """
        ...

    def list(self, prefix: str) -> Paths:
        """Return the paths of all objects under the folder ``prefix``, sorted."""
        ...

    def exists(self, path: str) -> bool:
        """Say whether there is an object."""
        ...

    def size_bytes(self, prefix: str = "") -> int:
        """Return the bytes that the objects under the folder ``prefix`` take."""
        ...


def check(path: str) -> str:
    """Return ``path`` if it can name an object.

    Raises:
        StoreError: it has other characters than letters, digits and ``._=@+-``, or a part that is empty or begins
            with a dot.
    """
    if not _PATH.fullmatch(path):
        raise StoreError(f"expected a path of letters, digits and ._=@+- with single slashes, got {path!r}")
    return path
