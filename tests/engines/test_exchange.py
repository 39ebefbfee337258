"""How weights travel: everyone ends with what the server believes they have, whatever the codec."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import toys
from torch import nn

from cutlayer.codecs import DifferenceStream, parse
from cutlayer.engines.exchange import WeightExchange
from cutlayer.roles.part import Part
from cutlayer.transport import InProcess, Traffic
from cutlayer.wire import Message

CODECS: list[Any] = ["fp32", "bf16", "int8", {"name": "topk", "ratio": 0.2}]


def _exchange(codec: Any) -> tuple[WeightExchange, Traffic]:
    traffic = Traffic()

    def nobody(message: Message) -> Message:
        raise AssertionError("no request is made")

    return WeightExchange(InProcess(nobody, lambda m: [nobody(x) for x in m], traffic), parse(codec), 0), traffic


def _part(seed: int = 0) -> Part:
    return Part(
        "encoder", toys.made(lambda: nn.Sequential(nn.Linear(20, 30), nn.BatchNorm1d(30)), seed), {"name": "adam"}
    )


def _moved(part: Part, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in part.read().values():
            if tensor.is_floating_point():
                tensor.add_(0.01 * torch.randn(tensor.shape, generator=g))


@pytest.mark.parametrize("codec", CODECS)
def test_every_client_starts_a_round_from_the_same_weights(codec: Any) -> None:
    """Whether it took part in the last round, an earlier one or none."""
    exchange, _ = _exchange(codec)
    server, clients = _part(), {c: {"encoder": _part(c + 5)} for c in range(3)}
    taking_part = {1: (0, 1), 2: (0,), 3: (0, 1), 4: (0, 1, 2)}
    for number, chosen in taking_part.items():
        _moved(server, number)
        sent = exchange.broadcast({"encoder": server.read()}, number)
        server.write(sent["encoder"])
        for client in chosen:
            exchange.send_down(client, clients[client], ("encoder",))
            assert toys.same(clients[client]["encoder"].snapshot(), server.snapshot())


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_sent_is_enough_to_know_the_weights(codec: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that holds the last broadcast, or none, needs nothing but the message."""
    exchange, traffic = _exchange(codec)
    sent: list[Message] = []
    down = InProcess.down

    def watched(transport: InProcess, message: Message, content: str) -> Message:
        sent.append(message)
        return down(transport, message, content)

    monkeypatch.setattr(InProcess, "down", watched)
    server, clients = _part(), {c: {"encoder": _part(c + 5)} for c in range(2)}
    held: dict[int, dict[str, torch.Tensor]] = {}
    sizes = []
    for number, chosen in {1: (0,), 2: (0,), 3: (0, 1), 4: (0,), 5: (0, 1)}.items():
        _moved(server, number)
        server.write(exchange.broadcast({"encoder": server.read()}, number)["encoder"])
        for client in chosen:
            stream = DifferenceStream(parse(codec))
            exchange.send_down(client, clients[client], ("encoder",))
            missed = client == 1 or number == 1
            reference = {} if missed or codec == "fp32" else held[client]
            tensors = sent[-1].tensors
            found = tensors if missed else stream.receive(tensors, reference, client=-1, seed=0, key=(number,))
            held[client] = {k: v.clone() for k, v in found.items()}
            own = {f"encoder/{k}": v for k, v in clients[client]["encoder"].snapshot().items()}
            assert toys.same(held[client], own)
            sizes.append((missed, traffic.take()[1]))
    full = {size for missed, size in sizes if missed}
    assert len(full) == 1
    assert all((size < min(full)) == (codec != "fp32") for missed, size in sizes if not missed)


@pytest.mark.parametrize("codec", CODECS)
def test_the_server_gets_what_the_client_has_but_for_the_codec(codec: Any) -> None:
    exchange, _ = _exchange(codec)
    server, client = _part(), {"encoder": _part(1)}
    exchange.broadcast({"encoder": server.read()}, 1)
    exchange.send_down(0, client, ("encoder",))
    _moved(client["encoder"], 9)
    arrived = exchange.send_up(0, client, ("encoder",), 10)["encoder"]
    own = client["encoder"].snapshot()
    difference = max(float((arrived[k] - own[k]).float().abs().max()) for k in own)
    assert difference == 0 if codec == "fp32" else difference < 0.04
    assert torch.equal(arrived["1.num_batches_tracked"], own["1.num_batches_tracked"])


def test_error_feedback_makes_up_for_what_was_left_out() -> None:
    """Sent again and again, a sparse difference arrives in full."""
    exchange, _ = _exchange({"name": "topk", "ratio": 0.2})
    server, client = _part(), {"encoder": _part()}
    total = torch.zeros(30, 20)
    for number in range(1, 40):
        exchange.broadcast({"encoder": server.read()}, number)
        exchange.send_down(0, client, ("encoder",))
        start = client["encoder"].snapshot()["0.weight"]
        with torch.no_grad():
            client["encoder"].read()["0.weight"].add_(0.01)
        arrived = exchange.send_up(0, client, ("encoder",), 10)["encoder"]["0.weight"]
        total += arrived - start
    assert float(total.mean()) == pytest.approx(0.39, rel=0.1)
    assert float(total.std()) < 0.05


def test_differences_are_smaller_than_weights() -> None:
    exchange, traffic = _exchange("int8")
    server, client = _part(), {"encoder": _part()}
    sizes = []
    for number in (1, 2, 3):
        _moved(server, number)
        server.write(exchange.broadcast({"encoder": server.read()}, number)["encoder"])
        exchange.send_down(0, client, ("encoder",))
        sizes.append(traffic.take()[1])
    assert sizes[1] == sizes[2] < 0.65 * sizes[0], "headers and scales included"


@pytest.mark.parametrize("codec", CODECS)
def test_personal_weights_arrive_as_meant(codec: Any) -> None:
    exchange, _ = _exchange(codec)
    part, wanted = _part(1), _part(1)
    for number in range(1, 25):
        _moved(wanted, number)
        exchange.personal(0, "auxiliary", part, wanted.snapshot(), number)
    reached = toys.apart(wanted.snapshot(), part.snapshot())
    assert reached == 0 if codec == "fp32" else reached < 0.1


def test_a_hand_over_carries_weights_and_moments_both_ways() -> None:
    exchange, traffic = _exchange("int8")
    giver, taker = _part(1), _part(2)
    for _ in range(3):
        giver.apply([torch.randn(w.shape) for w in giver.weights])
    given = exchange.give({"encoder": giver})
    up, none, _ = traffic.take()
    assert up > 0 == none, "the server holds it until the next client comes"
    exchange.take(given, {"encoder": taker})
    assert traffic.take()[:2] == (0, up)
    assert toys.same(giver.snapshot(), taker.snapshot())
    gradients = [torch.randn(w.shape) for w in giver.weights]
    giver.apply([g.clone() for g in gradients])
    taker.apply(gradients)
    assert toys.same(giver.snapshot(), taker.snapshot())


@pytest.mark.parametrize("codec", CODECS)
def test_state_is_all_that_later_messages_depend_on(codec: Any) -> None:
    exchange, _ = _exchange(codec)
    server, client = _part(), {"encoder": _part(1)}

    def round_of(exchange: WeightExchange, number: int) -> list[Any]:
        server = _part(number)
        sent = exchange.broadcast({"encoder": server.read()}, number)["encoder"]
        exchange.send_down(0, client, ("encoder",))
        _moved(client["encoder"], number)
        return [sent, exchange.send_up(0, client, ("encoder",), 10)["encoder"]]

    for number in (1, 2):
        round_of(exchange, number)
    tensors, meta = exchange.state()
    kept = client["encoder"].snapshot()
    expected = round_of(exchange, 3)
    client["encoder"].write(kept)
    resumed, _ = _exchange(codec)
    resumed.load_state(tensors, meta)
    found = round_of(resumed, 3)
    assert all(toys.same(a, b) for a, b in zip(found, expected, strict=True))
    del server


def test_state_holds_nothing_of_other_kinds_of_message() -> None:
    channel = parse({"name": "topk", "ratio": 0.2, "feedback": True})
    transport = InProcess(lambda m: m, list, Traffic())
    exchange = WeightExchange(transport, channel, 0)
    channel.pack("activations", {"h0": torch.randn(40, 40)}, client=0, seed=0, key=(0,))
    assert channel.state_dict()
    tensors, meta = exchange.state()
    assert not any("activations" in name for name in [*tensors, *meta])
