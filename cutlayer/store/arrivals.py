"""The order in which things came, where it is not known beforehand: every one has taken a number of its own.

    <folder>/<number>       what came as number 0, 1, 2, ...

A number is taken by a conditional put, so whoever reads the files from the first to the last sees the same order, also
among processes that write at the same time.  The same thing may have taken two numbers, when two processes were asked
at once; whoever reads lets the first one count.
"""

from __future__ import annotations

from cutlayer.errors import MissingObject, ObjectExists
from cutlayer.store.base import Meta, TensorStore


class Arrivals:
    """One such order."""

    def __init__(self, store: TensorStore, folder: str) -> None:
        self._store, self._folder = store, folder
        self._known: dict[int, Meta] = {}

    def get(self, number: int) -> Meta | None:
        """Return what came as ``number``, None if nothing has."""
        if number not in self._known:
            try:
                self._known[number] = self._store.meta(self._path(number))
            except MissingObject:
                return None
        return self._known[number]

    def take(self, number: int, what: Meta) -> bool:
        """Let ``what`` take ``number``; False if something else has it.

        Asked again with the same, it is True: whoever did not hear the answer may ask once more.
        """
        try:
            self._store.put(self._path(number), {}, what, if_absent=True)
        except ObjectExists:
            return self.get(number) == what
        self._known[number] = what
        return True

    def collect(self, number: int) -> None:
        """Delete what came before ``number``."""
        for path in self._store.list(self._folder):
            if int(path.rpartition("/")[2]) < number:
                self._store.delete(path)
        self._known = {n: what for n, what in self._known.items() if n >= number}

    def _path(self, number: int) -> str:
        return f"{self._folder}/{number:09d}"
