"""Laws of channels: order of transforms, what is left alone, names and dtypes that come back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cutlayer import streams
from cutlayer.errors import ConfigError, WireError
from cutlayer.transforms import KINDS, Channel, Context, Pieces, State, Transform


class Scale(Transform):
    """Multiplies on the way, divides on arrival, and notes whom it saw."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.seen: list[Context] = []

    def send(self, pieces: Pieces, context: Context) -> Pieces:
        self.seen.append(context)
        return {name: tensor * self.factor for name, tensor in pieces.items()}

    def receive(self, pieces: Pieces, context: Context) -> Pieces:
        return {name: tensor / self.factor for name, tensor in pieces.items()}

    def state_dict(self) -> State:
        return {"factor": self.factor}

    def load_state_dict(self, state: State) -> None:
        self.factor = state["factor"]


class Shift(Transform):
    """Adds on the way, subtracts on arrival: does not commute with `Scale`."""

    def send(self, pieces: Pieces, context: Context) -> Pieces:
        return {name: tensor + 1 for name, tensor in pieces.items()}

    def receive(self, pieces: Pieces, context: Context) -> Pieces:
        return {name: tensor - 1 for name, tensor in pieces.items()}


class Halves(Transform):
    """Sends a tensor in two pieces."""

    def send(self, pieces: Pieces, context: Context) -> Pieces:
        top, bottom = pieces[""].reshape(2, -1)
        return {"top": top, "bottom": bottom}

    def receive(self, pieces: Pieces, context: Context) -> Pieces:
        return {"": torch.cat([pieces["top"], pieces["bottom"]])} if "top" in pieces else pieces


class Noise(Transform):
    """Adds noise from the context's stream."""

    def send(self, pieces: Pieces, context: Context) -> Pieces:
        noise = torch.randn(pieces[""].shape, generator=streams.generator(context.seed))
        return {"": pieces[""] + noise}


def floats() -> dict[str, Tensor]:
    return {"h0": torch.arange(4.0), "layer.weight": torch.ones(2)}


def test_no_transforms_hand_the_same_dict_through() -> None:
    channel, tensors = Channel(), floats()
    for kind in (*KINDS, "labels"):
        assert channel.is_identity(kind)
        assert channel.pack(kind, tensors) is tensors
        assert channel.unpack(kind, tensors) is tensors


def test_the_sender_applies_in_order_and_the_receiver_in_reverse() -> None:
    channel = Channel({"updates": [Scale(4.0), Shift(), Halves()]})
    packed = channel.pack("updates", {"layer.weight": torch.arange(4.0)})
    assert packed["layer.weight:top"].tolist() == [1.0, 5.0]
    assert packed["layer.weight:bottom"].tolist() == [9.0, 13.0]
    assert channel.unpack("updates", packed)["layer.weight"].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_other_kinds_are_left_alone() -> None:
    channel, tensors = Channel({"activations": [Shift()]}), floats()
    assert channel.pack("cut_gradients", tensors) is tensors
    assert channel.pack("activations", tensors)["h0"][0] == 1


def test_only_floating_tensors_are_transformed() -> None:
    tensors = {"mask": torch.tensor([True]), "h0": torch.ones(2), "ids": torch.arange(3)}
    channel = Channel({"activations": [Shift(), Halves()]})
    packed = channel.pack("activations", tensors)
    assert packed["mask"] is tensors["mask"]
    assert packed["ids"] is tensors["ids"]
    back = channel.unpack("activations", packed)
    assert list(back) == ["mask", "h0", "ids"]
    assert torch.equal(back["h0"], tensors["h0"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_the_dtype_comes_back(dtype: torch.dtype) -> None:
    channel = Channel({"activations": [Scale(2.0)]})
    back = channel.unpack("activations", channel.pack("activations", {"h0": torch.ones(2, dtype=dtype)}))
    assert back["h0"].dtype == dtype


def test_what_is_given_stays_unchanged_and_carries_no_graph() -> None:
    tensor = torch.ones(2, requires_grad=True)
    packed = Channel({"activations": [Scale(2.0)]}).pack("activations", {"h0": tensor})
    assert tensor.tolist() == [1.0, 1.0]
    assert not packed["h0"].requires_grad


def test_noise_is_the_same_when_sent_again_and_other_elsewhere() -> None:
    channel = Channel({"activations": [Noise()]})
    once, again, other = (channel.pack("activations", floats(), seed=seed)["h0"] for seed in (1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    same = {"a": torch.zeros(4), "b": torch.zeros(4)}
    packed = channel.pack("activations", same, seed=1)
    assert not torch.equal(packed["a"], packed["b"])


def test_the_context_says_what_it_is() -> None:
    scale = Scale(2.0)
    Channel({"updates": [scale]}).pack("updates", floats(), client=3, training=False, key=(1, 2))
    assert [(c.kind, c.client, c.name, c.training, c.key) for c in scale.seen] == [
        ("updates", 3, name, False, (1, 2)) for name in floats()
    ]
    assert len({context.stream for context in scale.seen}) == 2


def test_before_puts_a_transform_first() -> None:
    channel = Channel({"activations": [Halves()]}).before("activations", Shift())
    assert channel.pack("activations", {"h0": torch.zeros(2)})["h0:top"].tolist() == [1.0]


def test_state_goes_back_to_its_transform() -> None:
    state = Channel({"updates": [Shift(), Scale(2.0)], "activations": [Scale(3.0)]}).state_dict()
    one, two = Scale(0.0), Scale(0.0)
    Channel({"updates": [Shift(), one], "activations": [two]}).load_state_dict(state)
    assert (one.factor, two.factor) == (2.0, 3.0)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="activations"):
        Channel({"smashed": []})
    with pytest.raises(ConfigError, match="activations"):
        Channel().before("smashed", Shift())
    channel = Channel({"activations": [Halves()]})
    with pytest.raises(WireError, match=":"):
        channel.pack("activations", {"a:b": torch.ones(2)})
    with pytest.raises(WireError, match="pieces"):
        channel.unpack("activations", {"h0:strange": torch.ones(2)})
    with pytest.raises(WireError, match="one piece"):
        channel.unpack("activations", {"h0": torch.arange(2), "h0:top": torch.ones(2)})
