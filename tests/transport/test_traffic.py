"""Traffic: bytes by direction and by what they are."""

from __future__ import annotations

import torch

from cutlayer import wire
from cutlayer.transport import Traffic
from cutlayer.wire import Message

MESSAGE = Message(
    "train",
    {
        "h0:q": torch.zeros(6, dtype=torch.uint8),
        "h0:scale": torch.zeros(1),
        "h12": torch.zeros(5),
        "y": torch.zeros(2, dtype=torch.int64),
    },
    {"key": [0, 1, 0, 0]},
)


def test_tensors_are_counted_as_what_they_are() -> None:
    traffic = Traffic()
    traffic.count_up(MESSAGE)
    traffic.count_down(Message("answer", {"g0": torch.zeros(3), "loss": torch.zeros(()), "z0": torch.zeros(2)}))
    up, down, kinds = traffic.take()
    assert up == len(wire.encode(MESSAGE))
    assert up + down == sum(kinds.values())
    headers = kinds.pop("headers")
    assert headers > 0
    assert kinds == {"activations": 30, "labels": 16, "cut_gradients": 12, "losses": 4, "outputs": 8}


def test_other_messages_say_what_they_carry() -> None:
    traffic = Traffic()
    traffic.count_down(Message("weights", {"encoder/h0": torch.zeros(4)}), "updates")
    _, down, kinds = traffic.take()
    assert kinds["updates"] == 16
    assert down == 16 + kinds["headers"]


def test_taking_starts_again_at_zero() -> None:
    traffic = Traffic()
    traffic.count_up(MESSAGE)
    traffic.take()
    assert traffic.take() == (0, 0, {})
