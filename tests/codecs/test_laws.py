"""Laws that every codec obeys."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from cutlayer import codecs
from cutlayer.transforms import KINDS
from cutlayer.wire import Message, decode, dense, encode, size

law = settings(deadline=None, max_examples=40)
SPECS: list[Any] = ["fp32", "bf16", "fp16", "int8", {"name": "topk", "ratio": 0.1}]
LOSSY = SPECS[1:]


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Finite floats of 0 to 5 dims, empty or not, row-major or channels last."""
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    tensor = torch.randn(shape, generator=generator) * 10.0 ** draw(st.integers(-6, 4))
    if draw(st.booleans()):
        tensor = tensor.relu()
    if draw(st.booleans()) and tensor.dim() == 4 and tensor.numel():
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    return dense(tensor.to(draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))))


@pytest.mark.parametrize("spec", SPECS, ids=str)
@law
@given(tensors(), st.sampled_from(KINDS))
def test_shape_dtype_and_finiteness_come_back(spec: Any, tensor: Tensor, kind: str) -> None:
    channel = codecs.parse(spec)
    packed = channel.pack(kind, {"h0": tensor, "count": torch.tensor(7)})
    back = channel.unpack(kind, packed)
    assert list(back) == ["h0", "count"]
    assert back["count"] == 7
    assert back["h0"].shape == tensor.shape
    assert back["h0"].dtype == tensor.dtype
    assert bool(back["h0"].isfinite().all())


@pytest.mark.parametrize("spec", SPECS, ids=str)
@law
@given(tensors(), st.sampled_from(KINDS))
def test_both_sides_see_the_same_bits(spec: Any, tensor: Tensor, kind: str) -> None:
    channel = codecs.parse(spec)
    packed = channel.pack(kind, {"h0": tensor})
    here = channel.unpack(kind, packed)["h0"]
    there = channel.unpack(kind, decode(encode(Message(kind, packed))).tensors)["h0"]
    assert torch.equal(here, there)
    assert here.stride() == there.stride()


@pytest.mark.parametrize("spec", SPECS, ids=str)
@law
@given(tensors(), st.sampled_from(KINDS))
def test_a_codec_never_makes_a_message_much_larger(spec: Any, tensor: Tensor, kind: str) -> None:
    packed = codecs.parse(spec).pack(kind, {"h0": tensor})
    like = 100 if tensor.dtype != torch.float32 else 8  # the marker of another dtype, a longer name of one
    assert size(Message(kind, packed)) <= size(Message(kind, {"h0": tensor})) + like


@pytest.mark.parametrize(("spec", "ratio"), [("bf16", 0.5), ("fp16", 0.5), ("int8", 0.25), (LOSSY[-1], 0.2)], ids=str)
def test_messages_shrink_as_promised(spec: Any, ratio: float) -> None:
    tensor = torch.randn(64, 64, 12, 12)
    whole = size(Message("activations", {"h0": tensor}))
    packed = codecs.parse(spec).pack("activations", {"h0": tensor})
    assert size(Message("activations", packed)) <= ratio * 1.005 * whole


@pytest.mark.parametrize("spec", ["bf16", "fp16", LOSSY[-1]], ids=str)
@law
@given(tensors())
def test_what_was_received_can_be_sent_again_unchanged(spec: Any, tensor: Tensor) -> None:
    channel = codecs.parse(spec)
    once = channel.unpack("activations", channel.pack("activations", {"h0": tensor}))
    again = channel.unpack("activations", channel.pack("activations", once))
    assert torch.equal(once["h0"], again["h0"])
