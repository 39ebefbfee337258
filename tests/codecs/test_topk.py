"""topk: the largest values arrive exactly, the rest as 0, and forged pieces are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer import codecs
from cutlayer.errors import ConfigError, WireError

law = settings(deadline=None, max_examples=50)


@law
@given(st.floats(0.001, 0.3), st.integers(400, 900), st.integers(0, 99))
def test_the_largest_arrive_exactly_and_the_rest_as_zero(ratio: float, numel: int, seed: int) -> None:
    channel = codecs.parse({"name": "topk", "ratio": ratio})
    tensor = torch.randn(1, numel, generator=torch.Generator().manual_seed(seed))
    back = channel.unpack("activations", channel.pack("activations", {"h": tensor}))["h"]
    kept = back != 0
    assert int(kept.sum()) == math.ceil(ratio * numel)
    assert torch.equal(back[kept], tensor[kept])
    assert tensor[kept].abs().min() >= tensor[~kept].abs().max()


def test_a_tensor_that_would_not_shrink_travels_as_it_is() -> None:
    tensor = torch.randn(4, 10)
    assert list(codecs.parse({"name": "topk", "ratio": 0.9}).pack("activations", {"h": tensor})) == ["h"]


@pytest.mark.parametrize("ratio", [0, -1, 1.5, "many", True, float("nan")])
def test_impossible_ratios_are_refused(ratio: Any) -> None:
    with pytest.raises(ConfigError, match="ratio"):
        codecs.parse({"name": "topk", "ratio": ratio})


@pytest.mark.parametrize(
    "change",
    [
        {"h:value": None},
        {"h:shape": None},
        {"h:shape": torch.zeros(())},
        {"h:shape": torch.empty(0, 10_000_000, 10_000)},
        {"h:index": torch.full((100,), 1000, dtype=torch.int32)},
        {"h:index": torch.full((100,), -1, dtype=torch.int32)},
        {"h:index": torch.zeros(99, dtype=torch.int32)},
        {"h:index": torch.zeros(100)},
        {"h:value": torch.zeros(100, dtype=torch.int64)},
    ],
    ids=lambda change: f"{next(iter(change))}-{getattr(next(iter(change.values())), 'shape', 'none')}",
)
def test_pieces_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    channel = codecs.parse({"name": "topk", "ratio": 0.1})
    packed = {**channel.pack("activations", {"h": torch.randn(1, 1000)}), **change}
    with pytest.raises(WireError):
        channel.unpack("activations", {name: tensor for name, tensor in packed.items() if tensor is not None})
