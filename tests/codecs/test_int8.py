"""int8: the error bound per channel, zeros, ranges at the edge, and pieces that don't fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from cutlayer import codecs
from cutlayer.errors import TrainingError, WireError

law = settings(deadline=None, max_examples=80)
channel = codecs.parse("int8")
shapes = st.sampled_from([(40, 9), (17, 3, 4, 5), (2, 20, 6), (300,), (16, 16), (2, 400), (5, 7, 3, 3), (1, 64, 4, 4)])
floats32 = st.floats(allow_nan=False, allow_infinity=False, width=32)


def sent(tensor: Tensor, kind: str = "activations") -> dict[str, Tensor]:
    return channel.pack(kind, {"h": tensor})


def through(tensor: Tensor, kind: str = "activations") -> Tensor:
    return channel.unpack(kind, sent(tensor, kind))["h"]


@law
@given(
    shapes.flatmap(lambda s: hnp.arrays("float32", s, elements=floats32)), st.sampled_from(["activations", "updates"])
)
def test_the_error_is_at_most_half_a_step(array: Any, kind: str) -> None:
    tensor = torch.from_numpy(array)
    packed = sent(tensor, kind)
    back = channel.unpack(kind, packed)["h"]
    if "h" in packed:
        assert torch.equal(back, tensor)
        return
    error = (back.double() - tensor.double()).abs()
    assert bool((error <= packed["h:scale"].double() * (0.5001 if tensor.abs().max() < 3e38 else 0.51)).all())
    assert bool((back[tensor == 0] == 0).all())


@law
@given(shapes, st.integers(0, 99), st.sampled_from([1.0, -1.0]), st.booleans())
def test_values_of_one_sign_arrive_the_second_time_as_the_first(
    shape: tuple[int, ...], seed: int, sign: float, last: bool
) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).relu() * sign
    if last and len(shape) == 4:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    once = through(tensor)
    assert torch.equal(through(once), once)
    assert once.stride() == tensor.stride()


@pytest.mark.parametrize(
    ("shape", "kind", "scales"),
    [
        ((64, 5, 4, 4), "activations", (1, 5, 1, 1)),
        ((64, 10), "cut_gradients", (1, 10)),
        ((8, 20, 6), "activations", (1, 1, 6)),
        ((4, 300), "activations", (1, 1)),
        ((12, 3, 5, 5), "updates", (12, 1, 1, 1)),
        ((64, 1, 3, 3), "updates", (1, 1, 1, 1)),
        ((400,), "updates", (1,)),
    ],
)
def test_every_channel_has_its_scale_where_that_is_worth_it(
    shape: tuple[int, ...], kind: str, scales: tuple[int, ...]
) -> None:
    assert tuple(sent(torch.randn(shape), kind)["h:scale"].shape) == scales


def test_a_channel_of_small_values_is_not_drowned_by_a_large_one() -> None:
    tensor = torch.randn(64, 2, 4, 4)
    tensor[:, 0] *= 1e-3
    small = tensor[:, 0]
    assert float((through(tensor)[:, 0] - small).norm() / small.norm()) < 0.02


def test_layout_does_not_change_values() -> None:
    tensor = torch.randn(8, 20, 6, 6)
    last = tensor.contiguous(memory_format=torch.channels_last)
    assert torch.equal(through(tensor), through(last))
    sparse = torch.stack([tensor, tensor], -1)[..., 0]
    assert torch.equal(through(tensor), through(sparse))


@pytest.mark.parametrize("value", [0.0, 3.0, -2.5, 1e-40, 3e38])
def test_constant_channels_arrive(value: float) -> None:
    tensor = torch.full((64, 8), value)
    torch.testing.assert_close(through(tensor), tensor, rtol=1e-4, atol=1e-37)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (0, 4), (2, 2)])
def test_small_tensors_travel_as_they_are(shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape)
    assert list(sent(tensor, "updates")) == ["h"]
    assert torch.equal(through(tensor, "updates"), tensor)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused_by_name(bad: float) -> None:
    tensor = torch.zeros(64, 8)
    tensor[3, 4] = bad
    with pytest.raises(TrainingError, match=r"activations 'h' of client 0.*NaN or infinity"):
        sent(tensor)


@pytest.mark.parametrize(
    "change",
    [
        {"h:q": None},
        {"h:scale": None},
        {"h:scale": torch.ones(1, 3)},
        {"h:scale": torch.ones(8)},
        {"h:scale": torch.ones(1, 8, dtype=torch.float64)},
        {"h:zero": torch.zeros(1, 8)},
        {"h:q": torch.zeros(64, 8)},
    ],
    ids=str,
)
def test_pieces_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    packed = {name: tensor for name, tensor in {**sent(torch.randn(64, 8)), **change}.items() if tensor is not None}
    with pytest.raises(WireError):
        channel.unpack("activations", packed)
