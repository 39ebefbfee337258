"""How a server is at this moment: how fast it answers, what it takes of the machine, and its runs of the store."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

import psutil

from cutlayer.errors import CutlayerError
from cutlayer.store import TensorStore, usage

log = logging.getLogger(__name__)

WINDOW = 10.0
"""Seconds that rates and latencies are taken over."""
MOST = 50_000
"""Requests that are remembered of them."""
LEDGER = ("forwards", "deltas", "gradients")
EVERY, SHARE = 5.0, 20.0
"""Seconds between two weighings of the store, at least; and how many times as long as a weighing took."""


class Pace:
    """The requests of the last seconds; any thread may note one."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock, self._born = clock, clock()
        self._lock = threading.Lock()
        self._noted: deque[tuple[float, float, int, int]] = deque(maxlen=MOST)

    def note(self, seconds: float, came: int, went: int) -> None:
        """Remember a request: how long its answer took, and how many bytes came and went."""
        with self._lock:
            self._noted.append((self._clock(), seconds, came, went))

    def stats(self) -> dict[str, float | None]:
        """Return requests and bytes per second, and the percentiles of their milliseconds (None without any)."""
        with self._lock:
            now = self._clock()
            while self._noted and self._noted[0][0] < now - WINDOW:
                self._noted.popleft()
            found = list(self._noted)
        start = found[0][0] if len(found) == MOST else max(self._born, now - WINDOW)
        seconds = max(now - start, 1.0)
        took = sorted(each[1] for each in found)
        return {
            "steps_per_second": len(found) / seconds,
            **{f"p{percent}_ms": _percentile(took, percent) for percent in (50, 95, 99)},
            "bytes_in_per_second": sum(each[2] for each in found) / seconds,
            "bytes_out_per_second": sum(each[3] for each in found) / seconds,
        }


def _percentile(took: list[float], percent: int) -> float | None:
    return 1000.0 * took[math.ceil(len(took) * percent / 100) - 1] if took else None


class Body:
    """What this process takes of the machine."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._process.cpu_percent(None)

    def stats(self) -> dict[str, float]:
        """Return its memory, and the share of one processor that it took since this was asked last."""
        return {"rss_bytes": self._process.memory_info().rss, "cpu_percent": self._process.cpu_percent(None)}


class Scale(threading.Thread):
    """Weighs, now and then, what the runs at hand have in the store; nobody waits for it."""

    def __init__(self, store: TensorStore, runs: Callable[[], Iterable[str]], stop: threading.Event) -> None:
        super().__init__(name="scale", daemon=True)
        self._store, self._runs, self._stopping = store, runs, stop
        self._found = {"ledger_bytes": 0, "store_bytes": 0}

    def run(self) -> None:
        """Weigh until the process stops; a store that is away is weighed later."""
        pause = EVERY
        while not self._stopping.wait(pause):
            start = monotonic()
            try:
                self.weigh()
            except CutlayerError as error:
                log.info("the store could not be weighed: %s", error)
            pause = max(EVERY, SHARE * (monotonic() - start))

    def weigh(self) -> None:
        """Weigh now.  Raises StoreError."""
        each = [usage(self._store, run) for run in self._runs()]
        ledger = sum(used[folder] for used in each for folder in LEDGER)
        self._found = {"ledger_bytes": ledger, "store_bytes": sum(used["total"] for used in each)}

    def stats(self) -> dict[str, Any]:
        """Return what was found last."""
        return dict(self._found)
