"""bf16 and fp16: their errors, and what happens outside their range."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cutlayer import codecs

law = settings(deadline=None, max_examples=50)


def through(spec: str, tensor: Tensor) -> Tensor:
    channel = codecs.parse(spec)
    return channel.unpack("activations", channel.pack("activations", {"h0": tensor}))["h0"]


@law
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20))
def test_errors_are_bounded(values: list[float]) -> None:
    tensor = torch.tensor(values)
    assert bool(((through("bf16", tensor) - tensor).abs() <= tensor.abs() * 2**-8 + 1e-38).all())
    assert bool(((through("fp16", tensor) - tensor).abs() <= tensor.abs() * 2**-11 + 2**-25).all())


def test_fp16_saturates_finite_values_and_leaves_the_others() -> None:
    back = through("fp16", torch.tensor([1e6, -1e6, 65504.0, 1.0]))
    assert back.tolist() == [65504.0, -65504.0, 65504.0, 1.0]
    back = through("fp16", torch.tensor([1e6, float("inf"), -float("inf")]))
    assert back.tolist() == [65504.0, float("inf"), -float("inf")]
    assert bool(through("fp16", torch.tensor([float("nan")])).isnan())
