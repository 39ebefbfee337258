"""The transport of one process: by reference or encoded, the same replies and the same counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer import wire
from cutlayer.transport import InProcess, Traffic, Transport
from cutlayer.wire import Message

NAMES = st.sampled_from(["h0", "h1:q", "h1:scale", "y", "d0", "z0", "g0", "loss", "encoder/fc.weight"])
MESSAGES = st.builds(
    lambda kind, shapes, meta: Message(kind, {n: torch.rand(tuple(s)) for n, s in shapes.items()}, meta),
    st.sampled_from(["train", "forward"]),
    st.dictionaries(NAMES, st.lists(st.integers(0, 5), max_size=3), max_size=4),
    st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3),
)


def _double(message: Message) -> Message:
    return Message("answer", {k: 2 * t for k, t in message.tensors.items()}, {"of": message.kind})


def _pair(encoded: bool) -> tuple[InProcess, Traffic]:
    traffic = Traffic()

    def together(messages: Sequence[Message]) -> list[Message]:
        return [_double(m) for m in messages]

    return InProcess(_double, together, traffic, encoded=encoded), traffic


@settings(max_examples=40, deadline=None)
@given(messages=st.lists(MESSAGES, min_size=1, max_size=3))
def test_both_ways_give_the_same_replies_and_counts(messages: list[Message]) -> None:
    found = []
    for encoded in (False, True):
        transport, traffic = _pair(encoded)
        replies = [transport.request(m) for m in messages] + transport.request_together(messages)
        carried = [transport.up(messages[0], "updates"), transport.down(messages[0], "updates")]
        found.append(([wire.encode(m) for m in replies + carried], traffic.take()))
    assert found[0] == found[1]
    up = 2 * sum(len(wire.encode(m)) for m in messages) + len(wire.encode(messages[0]))
    down = 2 * sum(len(wire.encode(_double(m))) for m in messages) + len(wire.encode(messages[0]))
    assert found[0][1][:2] == (up, down)
    assert sum(found[0][1][2].values()) == up + down


def test_encoded_messages_share_no_memory_with_their_sender() -> None:
    transport, _ = _pair(encoded=True)
    message = Message("train", {"h0": torch.zeros(3)})
    arrived = transport.up(message, "updates")
    message.tensors["h0"].fill_(9)
    assert torch.equal(arrived.tensors["h0"], torch.zeros(3))


def test_it_is_a_transport() -> None:
    transport: Transport = _pair(encoded=False)[0]
    transport.close()
