"""The graph cache is bounded, and gives a graph back only for the weights that it was made with."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cutlayer.roles.graphs import Graph, GraphCache
from cutlayer.step import Pass
from cutlayer.store import BatchKey, ForwardRecord


def _graph(version: int = 0) -> Graph:
    return Graph(ForwardRecord("a", BatchKey(0, 1, 0, 0), version, 0, {}), Pass((), ()), [])


@given(capacity=st.integers(0, 5), count=st.integers(0, 12))
def test_it_never_holds_more_than_its_capacity(capacity: int, count: int) -> None:
    cache = GraphCache(capacity)
    for number in range(count):
        cache.put(str(number), _graph())
        assert len(cache) <= capacity
    newest = [str(n) for n in range(max(0, count - capacity), count)]
    assert [n for n in map(str, range(count)) if cache.take(n, 0) is not None] == newest


def test_a_graph_is_given_back_once() -> None:
    cache = GraphCache(2)
    cache.put("a", _graph())
    assert cache.take("a", 0) is not None
    assert cache.take("a", 0) is None
    assert (cache.hits, cache.misses) == (1, 1)


def test_a_graph_of_other_weights_is_forgotten() -> None:
    cache = GraphCache(2)
    cache.put("a", _graph(3))
    assert cache.take("a", 4) is None
    assert len(cache) == 0


def test_clearing() -> None:
    cache = GraphCache(2)
    cache.put("a", _graph())
    cache.clear()
    assert cache.take("a", 0) is None
