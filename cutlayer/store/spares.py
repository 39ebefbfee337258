"""Files that nobody needs any more, kept to be written again: cheaper than to remove one and to make another.

On ext4 without a journal thirty times cheaper: there, who makes a file goes through all inodes that were freed a moment
ago to find one that was not.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from secrets import token_hex

ROOM = 1 << 26
"""Bytes of files that a process keeps."""
FORGOTTEN = 3600.0
"""Seconds after which the files of a process that does not touch them are removed."""


class Spares:
    """The spare files of this process, in a folder of their own below ``root``.  May be shared among threads."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._folder = f"{self._root}/{self._process}-{token_hex(4)}"
        self._made = False
        self._files: list[tuple[str, int]] = []
        self._bytes = self._number = 0

    def keep(self, file: str, size: int) -> bool:
        """Take a file away from its path; False, and it stays, where there is no room.  Raises OSError."""
        with self._lock:
            self._look_for_a_fork()
            if self._bytes + size > ROOM:
                return False
            if not self._made:
                self._tidy()
                os.makedirs(self._folder, exist_ok=True)
                self._made = True
            self._number += 1
            spare = f"{self._folder}/{self._number}"
            try:
                os.rename(file, spare)
            except FileNotFoundError:
                self._made = False  # or the file is not there, which is no different
                raise
            self._files.append((spare, size))
            self._bytes += size
            return True

    def take(self) -> tuple[str, int] | None:
        """Open a spare file to be written from its beginning, and return its path too; None if there is none."""
        with self._lock:
            self._look_for_a_fork()
            while self._files:
                file, size = self._files.pop()
                self._bytes -= size
                try:
                    return file, os.open(file, os.O_WRONLY)
                except FileNotFoundError:
                    continue  # swept away
        return None

    def _look_for_a_fork(self) -> None:
        """The files of the process that this one was forked from are not its own."""
        if os.getpid() != self._process:
            self._begin()

    def _tidy(self) -> None:
        """Remove what processes of long ago have left."""
        limit = time.time() - FORGOTTEN
        try:
            for other in os.scandir(self._root):
                if other.stat().st_mtime < limit:
                    shutil.rmtree(other.path, ignore_errors=True)
        except OSError:
            return  # there is none, or another process is at it
