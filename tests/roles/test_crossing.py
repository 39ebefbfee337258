"""Values at a cut as a message's tensors and JSON, and back; and several clients' values as one batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.codecs import parse
from cutlayer.errors import WireError
from cutlayer.roles import crossing
from cutlayer.store import BatchKey

KEY = BatchKey(3, 1, 0, 2)
value = st.one_of(
    st.none(),
    st.integers(0, 99),
    st.booleans(),
    st.tuples(st.integers(1, 4), st.integers(1, 3)).map(lambda s: torch.randn(*s)),
    st.integers(1, 5).map(lambda n: torch.arange(n)),
)


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and torch.equal(left, right) and left.dtype == right.dtype
    return type(left) is type(right) and left == right


@given(values=st.lists(value, max_size=14))
def test_packing_is_undone(values: list[Any]) -> None:
    channel = parse("fp32")
    tensors, others = crossing.pack("h", values, channel, "activations", KEY, 0)
    assert all(isinstance(v, torch.Tensor) for v in tensors.values())
    found = crossing.unpack("h", {**tensors, "y": torch.ones(1)}, others, channel, "activations", KEY, 0)
    while values and values[-1] is None:
        values.pop()
    assert len(found) == len(values)
    assert all(_equal(a, b) for a, b in zip(values, found, strict=True))


def test_only_floating_values_are_quantized() -> None:
    channel = parse("int8")
    values = (torch.randn(40, 40), torch.arange(2000), 7, torch.ones(40, 40, dtype=torch.bool))
    tensors, others = crossing.pack("h", values, channel, "activations", KEY, 5)
    assert {"h0:q", "h1", "h3"} <= set(tensors)
    found = crossing.unpack("h", tensors, others, channel, "activations", KEY, 5)
    assert found[0].dtype == torch.float32
    assert not torch.equal(found[0], values[0])
    assert all(_equal(a, b) for a, b in zip(values[1:], found[1:], strict=True))


@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_batches_are_joined_row_by_row(sizes: list[int]) -> None:
    mask = torch.ones(9, 9)
    batches = [(torch.randn(n, 4), n, mask, 0.5, torch.arange(n)) for n in sizes]
    h, size, same, factor, index = crossing.joined(batches)
    assert torch.equal(h, torch.cat([b[0] for b in batches]))
    assert size == sum(sizes)
    assert same is mask
    assert factor == 0.5
    assert torch.equal(index, torch.cat([b[4] for b in batches]))


@pytest.mark.parametrize(
    "batches",
    [
        [(torch.ones(2, 3), torch.ones(5, 5)), (torch.ones(2, 3), torch.zeros(5, 5))],
        [(torch.ones(2, 3), 1.0), (torch.ones(2, 3), 2.0)],
        [(torch.ones(2, 3), None), (torch.ones(2, 3), torch.ones(2))],
    ],
)
def test_what_belongs_to_no_sample_cannot_be_joined(batches: list[Any]) -> None:
    with pytest.raises(WireError, match="cannot join the batches of several clients"):
        crossing.joined(batches)
