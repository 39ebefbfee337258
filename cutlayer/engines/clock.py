"""Virtual time: in which order the batches of clients reach the server when every client has a speed of its own."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from math import exp
from random import Random
from typing import Any

from cutlayer.seeds import derive


def paces(pace: float | Sequence[float], clients: int, seed: int) -> dict[int, float]:
    """Return the virtual seconds that each client needs for a sample.

    ``pace`` is each client's own, or the spread σ of a log-normal distribution with median 1 ms.
    """
    if not isinstance(pace, int | float):
        return dict(enumerate(pace))
    draws = (Random(derive(seed, "pace", client)).gauss(0.0, 1.0) for client in range(clients))
    return {client: 1e-3 * exp(pace * draw) for client, draw in enumerate(draws)}


class Clock:
    """The clients at work, and when the next batch of each arrives.  Of two at the same time the lower number goes."""

    def __init__(self, seconds_per_sample: Mapping[int, float]) -> None:
        self._pace = seconds_per_sample
        self._due: list[tuple[float, int]] = []
        self.now = 0.0
        """Virtual seconds since the run began."""

    def work(self, client: int, samples: int) -> None:
        """From now on ``client`` works on a batch of ``samples``."""
        heapq.heappush(self._due, (self.now + samples * self._pace[client], client))

    def next(self) -> int:
        """Go to the next arrival, and return whose batch it is."""
        self.now, client = heapq.heappop(self._due)
        return client

    def state(self) -> dict[str, Any]:
        """Return where the clock stands, as JSON."""
        return {"now": self.now, "due": sorted(self._due)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`state` returned."""
        self.now = state["now"]
        self._due = [(due, client) for due, client in state["due"]]
        heapq.heapify(self._due)
