"""Bytes as files below one folder, whole or not at all, by the operating system's own calls.

A file is written beside its target, under a name of its own that no object can have (``name#1``), and then renamed, or
linked for a conditional put: readers and SIGKILL meet whole files only, and of several writers exactly one wins.  These
are obstore's ways and names, without its threads: a put of 16 KB takes half the time.

A file that is recycled may be written again under another path (`cutlayer.store.spares`), so a read counts only if its
path still names the file afterwards.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from stat import S_ISREG

from cutlayer.store.spares import Spares

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
        self._spares = Spares(f"{root}/.spare")  # a name that no object can have

    def put(self, path: str, buffers: Sequence[Buffer], *, if_absent: bool) -> bool:
        """Write ``buffers``, one after another, as one file; False, and nothing is written, if it was there already."""
        target = self._root + path
        beside, handle = self._spares.take() or _stage(target)
        try:
            try:
                written = _write(handle, buffers)
                if os.fstat(handle).st_size > written:
                    os.ftruncate(handle, written)
            finally:
                os.close(handle)
            done = _placed(beside, target, if_absent)
            if not if_absent:
                return True
        except BaseException:
            os.unlink(beside)
            raise
        os.unlink(beside)
        return done

    def get(self, path: str, most: int | None = None) -> bytes:
        """Return a file's bytes, or its first ``most``."""
        while True:
            handle, found = self._open(path)
            try:
                data = _read(handle, found.st_size if most is None else min(found.st_size, most))
            finally:
                os.close(handle)
            now = os.stat(self._root + path)
            if (now.st_ino, now.st_dev) == (found.st_ino, found.st_dev):
                return data

    def delete(self, path: str) -> None:
        """Remove a file."""
        os.unlink(self._root + path)

    def recycle(self, path: str) -> None:
        """Remove a file; its blocks may be used again."""
        file = self._root + path
        found = os.stat(file)
        try:
            if found.st_nlink == 1 and self._spares.keep(file, found.st_size):  # another name may be a backup's
                return
        except OSError:
            pass  # removed below, or it was not there
        os.unlink(file)

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
                if entry.name.startswith("."):
                    continue  # no object's
                if entry.is_dir():
                    yield from self.entries(path)
                elif not staged(entry.name):
                    try:
                        yield path, entry.stat().st_size
                    except FileNotFoundError:
                        continue  # deleted meanwhile

    def _open(self, path: str) -> tuple[int, os.stat_result]:
        """Open a file; returns also what it is."""
        try:
            handle = os.open(self._root + path, os.O_RDONLY)
        except NotADirectoryError as error:
            raise FileNotFoundError(*error.args) from None
        found = os.fstat(handle)
        if not S_ISREG(found.st_mode):
            os.close(handle)
            raise FileNotFoundError(f"{path} is a folder")
        return handle, found


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


def _placed(beside: str, target: str, if_absent: bool) -> bool:
    """Give a file that is written its name; False if another has it."""
    while True:
        try:
            if if_absent:
                os.link(beside, target)
            else:
                os.rename(beside, target)
        except FileExistsError:
            return False
        except FileNotFoundError:
            if not os.path.exists(beside):
                raise
            os.makedirs(os.path.dirname(target), exist_ok=True)
        else:
            return True


def _read(handle: int, size: int) -> bytes:
    data = os.read(handle, size)
    while len(data) < size and (more := os.read(handle, size - len(data))):
        data += more
    return data


def _write(handle: int, buffers: Sequence[Buffer]) -> int:
    """Write ``buffers``, one after another; returns how many bytes they are."""
    rest = [memoryview(buffer) for buffer in buffers if len(buffer)]
    total = 0
    while rest:
        written = os.writev(handle, rest[:_AT_ONCE])
        total += written
        while rest and written >= len(rest[0]):
            written -= len(rest.pop(0))
        if written:
            rest[0] = rest[0][written:]
    return total
