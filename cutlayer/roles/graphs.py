"""A bounded cache of recent graphs: it spares a second forward and never changes a result."""

from __future__ import annotations

from collections import OrderedDict

from cutlayer.step import Pass


class GraphCache:
    """Keeps the graphs of the newest ``capacity`` forwards; a graph is only given back for the weights it was made with."""

    def __init__(self, capacity: int = 4) -> None:
        self.capacity = capacity
        self.hits = 0
        self.misses = 0
        self._graphs: OrderedDict[str, tuple[int, Pass]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._graphs)

    def put(self, forward: str, version: int, done: Pass) -> None:
        """Keep the graph of ``forward``, made with weight ``version``; the oldest goes."""
        if self.capacity > 0:
            self._graphs[forward] = version, done
            while len(self._graphs) > self.capacity:
                self._graphs.popitem(last=False)

    def take(self, forward: str, version: int) -> Pass | None:
        """Return the graph of ``forward`` and forget it; None if it is gone or the weights have moved from ``version``."""
        made, done = self._graphs.pop(forward, (None, None))
        if made != version:
            done = None
        self.hits += done is not None
        self.misses += done is None
        return done

    def clear(self) -> None:
        """Forget everything."""
        self._graphs.clear()
