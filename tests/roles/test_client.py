"""The client: its batches, its requests, and the proximal term."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import toys
from torch import Tensor, nn

import cutlayer as cl
from cutlayer.codecs import parse
from cutlayer.recipes import get
from cutlayer.roles import feedback
from cutlayer.roles.client import Client
from cutlayer.roles.part import Part
from cutlayer.roles.settings import Settings
from cutlayer.store import BatchKey
from cutlayer.wire import Message

SGD: dict[str, Any] = {"name": "sgd", "lr": 0.1}


def _client(recipe: str = "vanilla", augment: Any = None, **options: Any) -> Client:
    found = get(recipe)
    parts = {name: Part(name, toys.made(lambda: nn.Linear(6, 4)), SGD) for name in found.client_parts(("encoder",))}
    settings = Settings(found, ("encoder", "backbone"), **{"batch_size": 4, **options})
    return Client(3, toys.rows(10), parts, settings, parse("fp32"), feedback.of(found), augment)


def _requests(client: Client, number: int = 1) -> list[Message]:
    """Run a round against a server that answers with a gradient of ones."""
    found = []
    for turn in client.turns(number):
        request = next(turn)
        found.append(request)
        reply = Message("answer", {"loss": torch.tensor(2.0), "g0": torch.ones_like(request.tensors["h0"])})
        with pytest.raises(StopIteration):
            turn.send(reply)
    return found


def test_a_round_is_every_sample_once_an_epoch() -> None:
    requests = _requests(_client(local_epochs=2))
    assert [r.meta["key"] for r in requests] == [[3, 1, e, b] for e in range(2) for b in range(3)]
    for epoch in (requests[:3], requests[3:]):
        labels = torch.cat([r.tensors["y"] for r in epoch])
        assert sorted(labels.tolist()) == sorted(toys.rows(10).targets.tolist())
        assert [r.meta["samples"] for r in epoch] == [4, 4, 2]
    orders = [[r.tensors["y"].tolist() for r in epoch] for epoch in (requests[:3], requests[3:])]
    assert orders[0] != orders[1]


def test_a_last_batch_of_one_joins_the_one_before() -> None:
    assert [r.meta["samples"] for r in _requests(_client(batch_size=3))] == [3, 3, 4]


def test_batches_are_pure_functions_of_seed_and_key() -> None:
    first, second, other = (_client(seed=s).batch(BatchKey(3, 1, 0, 0), torch.arange(4)) for s in (1, 1, 2))
    assert first.seed == second.seed != other.seed


def test_progress_is_the_sum_of_losses_over_samples() -> None:
    client = _client()
    _requests(client)
    done = client.report()
    assert (done.samples, done.batches) == (10, 3)
    assert done.loss is not None
    assert float(done.loss) == pytest.approx(20.0)
    assert client.report().samples == 0, "a report starts anew"


def test_augmentation_draws_from_the_batchs_own_stream() -> None:
    def jitter(inputs: tuple[Any, ...], generator: torch.Generator) -> tuple[Any, ...]:
        return (inputs[0] + torch.rand(inputs[0].shape, generator=generator), *inputs[1:])

    def inputs(client: Client, batch: int) -> Tensor:
        torch.rand(3)
        found = client.batch(BatchKey(3, 1, 0, batch), torch.arange(4)).inputs[0]
        assert isinstance(found, Tensor)
        return found

    assert torch.equal(inputs(_client(augment=jitter), 0), inputs(_client(augment=jitter), 0))
    assert not torch.equal(inputs(_client(augment=jitter), 0), inputs(_client(augment=jitter), 1))
    assert torch.equal(inputs(_client(), 0), inputs(_client(), 1))


def test_the_proximal_term_pulls_towards_the_rounds_start() -> None:
    """FedProx: the gradient is that of ℓ + μ/2 ‖w − w_round‖², for averaged parts only."""
    far = torch.full((4, 6), 0.5)
    moved = {}
    for mu in (0.0, 0.2):
        client = _client("splitfed_v2", proximal=mu)
        turns = client.turns(1)
        next(turns)  # the round has begun: its start is remembered
        before = client.parts["encoder"].read()["weight"].detach().clone()
        with torch.no_grad():
            client.parts["encoder"].read()["weight"].add_(far)
        client.apply("encoder", [torch.zeros(4, 6), None])
        moved[mu] = client.parts["encoder"].read()["weight"].detach() - before
    torch.testing.assert_close(moved[0.0], far)
    torch.testing.assert_close(moved[0.2], far - 0.1 * 0.2 * far)


def test_fedprox_keeps_clients_nearer_than_fedavg() -> None:
    data = toys.dataset()
    split = toys.cut(toys.made(toys.Plain), ["relu1"], data.train)
    keys: dict[str, Any] = {"clients": 3, "rounds": 1, "local_epochs": 5, "batch_size": 8, "optimizer": SGD}

    def moved(aggregator: Any) -> float:
        model = cl.run("fedavg", split, data, aggregator=aggregator, **keys).model
        return sum(float((model[k] - v).norm()) for k, v in split.state_dict().items())

    near, far = moved({"name": "fedprox", "mu": 5.0}), moved("fedavg")
    assert near < 0.7 * far
    assert moved({"name": "fedprox", "mu": 0.0}) == far
