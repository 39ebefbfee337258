"""Bytes as files below one folder, whole or not at all, by the operating system's own calls.

A file is written beside its target, under a name of its own that no object can have (``name#1``), and then renamed, or
linked for a conditional put: readers and SIGKILL meet whole files only, and of several writers exactly one wins.  These
are obstore's ways and names, without its threads: a put of 16 KB takes half the time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from stat import S_ISREG

Buffer = bytes | memoryview

_STAGED = re.compile(r"#\d+$")
_AT_ONCE = 512
"""Buffers that one system call may write."""


class Folder:
    """Reads and writes files below ``root``, which is there.

    Paths are checked by the caller.  Raises what the operating system does, FileNotFoundError where there is no such
    file.
    """

    def __init__(self, root: Path) -> None:
        self._root = f"{root}/"

    def put(self, path: str, buffers: Sequence[Buffer], *, if_absent: bool) -> bool:
        """Write ``buffers``, one after another, as one file; False, and nothing is written, if it was there already."""
        target = self._root + path
        beside, handle = _stage(target)
        try:
            try:
                _write(handle, buffers)
            finally:
                os.close(handle)
            if not if_absent:
                os.rename(beside, target)
                return True
            done = _link(beside, target)
        except BaseException:
            os.unlink(beside)
            raise
        os.unlink(beside)
        return done

    def get(self, path: str, most: int | None = None) -> bytes:
        """Return a file's bytes, or its first ``most``."""
        handle, size = self._open(path)
        size = size if most is None else min(size, most)
        try:
            data = os.read(handle, size)
            while len(data) < size and (more := os.read(handle, size - len(data))):
                data += more
            return data
        finally:
            os.close(handle)

    def delete(self, path: str) -> None:
        """Remove a file."""
        os.unlink(self._root + path)

    def exists(self, path: str) -> bool:
        """Say whether there is a file."""
        try:
            return S_ISREG(os.stat(self._root + path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def entries(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield path and size of every file under the folder ``prefix``, but for those that are being written."""
        try:
            found = os.scandir(self._root + prefix)
        except (FileNotFoundError, NotADirectoryError):
            return
        with found:
            for entry in found:
                path = f"{prefix}/{entry.name}" if prefix else entry.name
                if entry.is_dir():
                    yield from self.entries(path)
                elif not staged(entry.name):
                    try:
                        yield path, entry.stat().st_size
                    except FileNotFoundError:
                        continue  # deleted meanwhile

    def _open(self, path: str) -> tuple[int, int]:
        """Open a file; returns also its size."""
        try:
            handle = os.open(self._root + path, os.O_RDONLY)
        except NotADirectoryError as error:
            raise FileNotFoundError(*error.args) from None
        found = os.fstat(handle)
        if not S_ISREG(found.st_mode):
            os.close(handle)
            raise FileNotFoundError(f"{path} is a folder")
        return handle, found.st_size


def staged(name: str) -> bool:
    """Say whether a file is one that is being written, or whose writer was killed."""
    return _STAGED.search(name) is not None


def _stage(target: str) -> tuple[str, int]:
    """Open a new file beside ``target``, whose folders are made if need be."""
    number = 1
    while True:
        try:
            return f"{target}#{number}", os.open(f"{target}#{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            number += 1  # another writer's, or one's that was killed
        except FileNotFoundError:
            os.makedirs(os.path.dirname(target), exist_ok=True)


def _link(beside: str, target: str) -> bool:
    try:
        os.link(beside, target)
    except FileExistsError:
        return False
    return True


def _write(handle: int, buffers: Sequence[Buffer]) -> None:
    rest = [memoryview(buffer) for buffer in buffers if len(buffer)]
    while rest:
        written = os.writev(handle, rest[:_AT_ONCE])
        while rest and written >= len(rest[0]):
            written -= len(rest.pop(0))
        if written:
            rest[0] = rest[0][written:]
