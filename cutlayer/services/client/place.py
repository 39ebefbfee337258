"""A client's place in a run, on its disk: where it stands, and the replies that it got since then.

    <folder>/runs/<run>/place             parts, optimizers and codecs as they were at some batch, and which
    <folder>/runs/<run>/journal-<n>       the replies since the place number n, one after another

After a restart the client takes up its place and goes through the journal: the same computation on the same replies
leads to where it was, without asking anyone twice.  A torn end of the journal is a reply that did not come.
"""

from __future__ import annotations

import contextlib
import errno
import os
import zlib
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

from torch import Tensor

from cutlayer.errors import MissingObject, NoSpace, StoreError
from cutlayer.store import ObjectStore

_HEAD = 12
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Place:
    """The place of one client in one run.  Raises StoreError (NoSpace) where the disk fails."""

    def __init__(self, folder: Path, run: str) -> None:
        self.folder = folder / "runs" / run
        self._store = ObjectStore(self.folder)
        self._file: FileIO | None = None
        self._number = 0
        self.journaled = 0
        """Bytes in the journal."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return what was saved last, None if nothing was."""
        try:
            tensors, meta = self._store.get("place")
        except MissingObject:
            return None
        self._number = int(meta["number"])
        return tensors, meta

    def save(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Save where the client stands; the journal before it goes."""
        self.close()
        self._number += 1
        self._store.put("place", tensors, {**meta, "number": self._number})
        self.journaled = 0
        for old in self.folder.glob("journal-*"):
            if old.name != self._journal.name:
                old.unlink(missing_ok=True)

    def write(self, content: bytes | bytearray) -> None:
        """Append a reply to the journal."""
        head = len(content).to_bytes(8, "little") + zlib.crc32(content).to_bytes(4, "little")
        try:
            if self._file is None:
                self._file = open(self._journal, "ab", buffering=0)  # noqa: SIM115 (open until the next place)
            for piece in (head, content):
                rest = memoryview(piece)
                while rest:
                    rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.close()
            kind = NoSpace if error.errno in _FULL else StoreError
            raise kind(
                f"cannot write {self._journal}: {error.strerror or error}; the client goes on when it can"
            ) from None
        self.journaled += len(content) + _HEAD

    def replies(self) -> Iterator[bytes]:
        """Yield the replies since the place, up to the first that is torn; what is after that one is cut off."""
        self.close()
        if not self._journal.exists():
            return
        whole = 0
        with open(self._journal, "rb") as file:
            while len(head := file.read(_HEAD)) == _HEAD:
                content = file.read(int.from_bytes(head[:8], "little"))
                if zlib.crc32(content).to_bytes(4, "little") != head[8:]:
                    break
                whole += _HEAD + len(content)
                yield content
        with contextlib.suppress(OSError):
            os.truncate(self._journal, whole)
        self.journaled = whole

    @property
    def _journal(self) -> Path:
        return self.folder / f"journal-{self._number}"

    def close(self) -> None:
        """Close the journal; it is opened again when it is needed."""
        if self._file is not None:
            self._file.close()
            self._file = None
