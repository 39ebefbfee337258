"""Which store a URL means."""

from __future__ import annotations

import os
from typing import Any

from cutlayer.store.base import TensorStore
from cutlayer.store.memory import MemoryStore
from cutlayer.store.objects import ObjectStore


def open_store(url: str | os.PathLike[str] | None = None, **options: Any) -> TensorStore:
    """Return the store at ``url``: None keeps tensors in this process; else see `ObjectStore`.

    Raises:
        StoreError: the folder cannot be made or used.
        ConfigError: the URL or an option is not understood.
    """
    return MemoryStore(**options) if url is None else ObjectStore(url, **options)
