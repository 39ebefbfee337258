"""Error feedback and difference streams: nothing is lost for good, both sides hold the same bits, runs resume."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cutlayer import codecs
from cutlayer.codecs import DifferenceStream
from cutlayer.wire import Message, decode, encode, size

law = settings(deadline=None, max_examples=25)
LOSSY: list[Any] = ["bf16", "fp16", "int8", {"name": "topk", "ratio": 0.1}]


def weights(seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "layer.weight": torch.randn(32, 40, generator=generator) * scale,
        "layer.bias": torch.randn(3, generator=generator) * scale,
        "norm.num_batches_tracked": torch.tensor(seed),
    }


def moved(old: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    step = weights(seed, 0.01)
    return {name: old[name] + step[name] if old[name].is_floating_point() else step[name] for name in old}


def wired(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    return decode(encode(Message("updates", packed))).tensors


def assert_equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert list(one) == list(two)
    assert all(torch.equal(one[name], two[name]) and one[name].dtype == two[name].dtype for name in one)


@pytest.mark.parametrize("spec", LOSSY, ids=str)
@law
@given(st.integers(2, 12), st.integers(0, 99))
def test_the_sum_of_what_arrived_misses_the_last_error_only(spec: Any, count: int, seed: int) -> None:
    feedback = codecs.ErrorFeedback(codecs.build(spec))
    channel = codecs.parse("fp32").before("updates", feedback)
    generator = torch.Generator().manual_seed(seed)
    given_sum = arrived_sum = torch.zeros(20, 30, dtype=torch.float64)
    for step in range(count):
        tensor = torch.randn(20, 30, generator=generator)
        packed = channel.pack("updates", {"w": tensor}, key=(step,))
        given_sum = given_sum + tensor.double()
        arrived_sum = arrived_sum + channel.unpack("updates", packed)["w"].double()
    (left,) = (value for name, value in feedback.state_dict().items() if name.endswith("|after"))
    torch.testing.assert_close(given_sum - arrived_sum, left.double(), rtol=0, atol=1e-4)


def test_a_constant_gradient_arrives_in_full_on_average() -> None:
    channel = codecs.parse({"name": "topk", "ratio": 0.05, "feedback": True})
    tensor = torch.linspace(0.1, 1.0, 2000)
    total = sum(
        (channel.unpack("activations", channel.pack("activations", {"h": tensor}, key=(i,)))["h"] for i in range(400)),
        torch.zeros(2000),
    )
    assert float((total / 400 - tensor).norm() / tensor.norm()) < 0.05


def test_feedback_is_off_at_the_cut_unless_asked_for() -> None:
    channel = codecs.parse({"name": "topk", "ratio": 0.05})
    first, second = (channel.pack("activations", {"h": torch.linspace(0, 1, 2000)}, key=(i,)) for i in range(2))
    assert_equal(first, second)


def test_streams_of_clients_names_and_kinds_are_apart() -> None:
    channel = codecs.parse({"name": "topk", "ratio": 0.05, "feedback": True})
    tensor = torch.linspace(0, 1, 2000)
    first = channel.pack("activations", {"h": tensor}, client=1)
    assert_equal(first, channel.pack("activations", {"h": tensor}, client=2))
    assert torch.equal(first["h:index"], channel.pack("cut_gradients", {"h": tensor}, client=1)["h:index"])
    assert not torch.equal(first["h:index"], channel.pack("activations", {"h": tensor}, client=1)["h:index"])


@pytest.mark.parametrize("spec", ["fp32", *LOSSY], ids=str)
def test_sender_and_receiver_hold_the_same_bits(spec: Any) -> None:
    sender, receiver = DifferenceStream(codecs.parse(spec)), DifferenceStream(codecs.parse(spec))
    reference = weights(0)
    for round_ in range(4):
        new = moved(reference, round_ + 1)
        packed, seen = sender.send(new, reference, client=3, key=(round_,))
        got = receiver.receive(wired(packed), reference, client=3, key=(round_,))
        assert_equal(got, seen)
        assert torch.equal(got["norm.num_batches_tracked"], new["norm.num_batches_tracked"])
        reference = got


def test_without_a_codec_weights_travel_untouched() -> None:
    new = weights(1)
    packed, seen = DifferenceStream(codecs.parse(None)).send(new, weights(0))
    assert packed is new
    assert seen is new


@pytest.mark.parametrize("spec", LOSSY[2:], ids=str)
@pytest.mark.parametrize("feedback", [True, False])
def test_a_receiver_follows_weights_that_settle(spec: Any, feedback: bool) -> None:
    """With a fixed reference feedback sends the rest later; with the last delivery as reference the difference does."""
    stream = DifferenceStream(codecs.parse(spec), feedback=feedback)
    start, end = weights(0), weights(1)
    held, received = start, torch.zeros(32, 40)
    for round_ in range(60):
        _, seen = stream.send(end, start if feedback else held, key=(round_,))
        received += seen["layer.weight"] - start["layer.weight"]
        held = seen
    distance = (end["layer.weight"] - start["layer.weight"]).norm()
    mean = received / 60 if feedback else held["layer.weight"] - start["layer.weight"]
    error = (end["layer.weight"] - start["layer.weight"] - mean).norm() / distance
    assert float(error) < (0.15 if feedback else 1e-3)


def test_int8_updates_take_a_quarter_of_the_bytes() -> None:
    old = {"w": torch.randn(256, 256)}
    packed, _ = DifferenceStream(codecs.parse("int8")).send({"w": old["w"] + 0.01}, old)
    assert size(Message("updates", packed)) < 0.26 * size(Message("updates", old))


@pytest.mark.parametrize("spec", LOSSY, ids=str)
def test_sending_again_gives_the_same_and_counts_once(spec: Any) -> None:
    one, two = DifferenceStream(codecs.parse(spec)), DifferenceStream(codecs.parse(spec))
    reference = weights(0)
    for round_ in range(3):
        new = moved(reference, round_ + 1)
        first, _ = one.send(new, reference, key=(round_,))
        again, _ = one.send(new, reference, key=(round_,))
        other, _ = two.send(new, reference, key=(round_,))
        assert_equal(first, again)
        assert_equal(first, other)


@pytest.mark.parametrize("spec", LOSSY, ids=str)
def test_a_resumed_stream_goes_on_as_the_uninterrupted_one(spec: Any) -> None:
    whole, reference = DifferenceStream(codecs.parse(spec)), weights(0)
    whole.send(moved(reference, 1), reference, key=(0,))
    whole.send(moved(reference, 2), reference, key=(1,))
    resumed = DifferenceStream(codecs.parse(spec))
    resumed.load_state_dict(whole.state_dict())
    for round_ in (1, 2):  # round 1 is sent again
        expected, _ = whole.send(moved(reference, round_ + 1), reference, key=(round_,))
        got, _ = resumed.send(moved(reference, round_ + 1), reference, key=(round_,))
        assert_equal(got, expected)


def test_feedback_can_be_switched_off_for_updates() -> None:
    stream = DifferenceStream(codecs.parse({"name": "topk", "ratio": 0.1, "feedback": False}))
    stream.send(weights(1), weights(0), key=(0,))
    assert stream.state_dict() == {}


def test_a_tensor_the_receiver_does_not_hold_travels_whole() -> None:
    stream = DifferenceStream(codecs.parse("bf16"))
    _, seen = stream.send({"new": torch.ones(3)}, {})
    assert seen["new"].tolist() == [1.0, 1.0, 1.0]
