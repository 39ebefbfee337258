"""Batches hold every sample once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.data import batches
from cutlayer.errors import ConfigError


@given(st.integers(0, 300), st.integers(1, 70), st.one_of(st.none(), st.integers(0, 2**62)))
def test_every_sample_once_and_no_lonely_last(n: int, size: int, seed: int | None) -> None:
    cut = batches(n, size, seed)
    together = torch.cat(cut).tolist() if cut else []
    assert sorted(together) == list(range(n))
    if seed is None:
        assert together == list(range(n))
    assert all(len(batch) == size for batch in cut[:-1])
    if size > 1 and n > 1:
        assert all(2 <= len(batch) <= size + 1 for batch in cut)


def test_a_single_last_sample_joins_the_batch_before() -> None:
    assert [len(batch) for batch in batches(9, 4, 0)] == [4, 5]
    assert [len(batch) for batch in batches(10, 4, 0)] == [4, 4, 2]
    assert [len(batch) for batch in batches(1, 4, 0)] == [1]
    assert [len(batch) for batch in batches(3, 1, 0)] == [1, 1, 1]


def test_seeds_and_generators_draw_the_same_order() -> None:
    def order(how: torch.Generator | int) -> list[int]:
        return torch.cat(batches(50, 8, how)).tolist()  # type: ignore[no-any-return]

    generator = torch.Generator().manual_seed(3)
    assert order(3) == order(3) == order(generator)
    assert order(generator) != order(3)
    assert order(4) != order(3)


def test_a_batch_needs_a_sample() -> None:
    with pytest.raises(ConfigError, match="batch_size must be at least 1, and 0 came"):
        batches(5, 0, 0)
