"""The runs that a client has in memory: those that it worked for last, and none that has ended."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from cutlayer.services.client.data import OwnData
from cutlayer.services.client.member import Member

KEPT = 3
"""Runs in memory at once, with their data: enough for going back and forth between some."""


@dataclass
class Held:
    """A run under the number that the client has in it; ``member`` once it has trained or scored."""

    number: int
    clients: int
    data: OwnData
    member: Member | None = None


class HeldRuns:
    """The most recently used runs."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._runs: OrderedDict[str, Held] = OrderedDict()

    def of(self, run: str, number: int, clients: int, make: Callable[[], OwnData]) -> Held:
        """Return a run, with data from ``make`` unless it is here under the same number.

        Before training a run may give a client another one.  Raises what ``make`` raises.
        """
        found = self._runs.get(run)
        if found is None or (found.number, found.clients) != (number, clients):
            self._runs.pop(run, None)
            while len(self._runs) >= self._kept:  # first, so that no more than those are ever in memory
                self._runs.popitem(last=False)
            found = self._runs[run] = Held(number, clients, make())
        self._runs.move_to_end(run)
        return found

    def member(self, run: str, number: int) -> Member | None:
        """Return what works for a run under this number, None if it has to be made."""
        found = self._runs.get(run)
        if found is None or found.number != number:
            return None
        self._runs.move_to_end(run)
        return found.member

    def spoilt(self, run: str) -> None:
        """Forget what was computed for a run: after a failure it is made anew from its place on disk."""
        if run in self._runs:
            self._runs[run].member = None

    def release(self, ended: Callable[[str], bool]) -> None:
        """Let go of the runs that have ended."""
        for run in list(self._runs):
            if ended(run):
                del self._runs[run]

    def __contains__(self, run: str) -> bool:
        return run in self._runs

    def __len__(self) -> int:
        return len(self._runs)
