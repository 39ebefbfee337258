"""A bounded cache of recent graphs: it spares a second forward and never changes a result."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor

from cutlayer.step import Pass
from cutlayer.store import ForwardRecord


@dataclass(frozen=True, slots=True)
class Graph:
    """A forward with its record, its graph and the buffers it left."""

    record: ForwardRecord
    done: Pass
    after: list[Tensor]


class GraphCache:
    """Keeps the graphs of the newest ``capacity`` forwards, each for the weights it was made with alone."""

    def __init__(self, capacity: int = 4) -> None:
        self.capacity = capacity
        self.hits = 0
        self.misses = 0
        self._graphs: OrderedDict[str, Graph] = OrderedDict()

    def __len__(self) -> int:
        return len(self._graphs)

    def put(self, forward: str, graph: Graph) -> None:
        """Keep the graph of ``forward``; the oldest goes."""
        if self.capacity > 0:
            self._graphs[forward] = graph
            while len(self._graphs) > self.capacity:
                self._graphs.popitem(last=False)

    def take(self, forward: str, version: int) -> Graph | None:
        """Return the graph of ``forward`` and forget it; None if it is gone or was not made with ``version``."""
        found = self._graphs.pop(forward, None)
        if found is not None and found.record.version != version:
            found = None
        self.hits += found is not None
        self.misses += found is None
        return found

    def clear(self) -> None:
        """Forget everything."""
        self._graphs.clear()
