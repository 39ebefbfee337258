"""Asynchronous servers that keep nothing: whatever dies or is repeated, the weights are those of the order written."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from replayed import replayed
from torch import Tensor

from cutlayer.config import load
from cutlayer.engines.prepare import prepare
from cutlayer.errors import MissingObject, TrainingError, WireError
from cutlayer.roles.assembly import Assembly
from cutlayer.roles.asynchronous_federation import AsynchronousFederation
from cutlayer.roles.asynchronous_replica import AsynchronousReplica
from cutlayer.roles.client import Turn
from cutlayer.roles.mixing import Mixing
from cutlayer.roles.schedule import Schedule, window_limit
from cutlayer.roles.weights import Recipient
from cutlayer.store import MemoryStore
from cutlayer.store.arrivals import Arrivals
from cutlayer.store.steps import Closed
from cutlayer.wire import Message, decode, encode

KEYS: dict[str, Any] = {
    "algorithm": "splitfed_async", "model": {"name": "mlp", "hidden": [16, 16], "dropout": 0.2}, "clients": 4,
    "partition": {"name": "dirichlet", "alpha": 1.0}, "batch_size": 64, "threads": 1, "device": "cpu", "seed": 5,
}  # fmt: skip


class Fleet:
    """Clients at random speeds, and servers of which any may be asked, die, or be asked twice."""

    def __init__(self, chaos: float, seed: int, **keys: Any) -> None:
        torch.set_num_threads(1)
        self.experiment = load(None, (), **{**KEYS, **keys})
        prepared = prepare(self.experiment)
        self.setup, self.settings = prepared.setup, prepared.settings
        self.samples = {n: len(share.train) for n, share in enumerate(self.setup.shares)}
        self.store, self.random, self.chaos = MemoryStore(), random.Random(seed), chaos
        self.replicas = [self.replica() for _ in range(2)]
        self.federations = [self.federation() for _ in range(2)]
        self.federations[0].setup()
        assembly = Assembly(self.setup, self.settings)
        self.clients = {n: assembly.client(n, share.train) for n, share in enumerate(self.setup.shares)}
        self.recipients = {n: Recipient(assembly.channel, self.settings.seed) for n in self.clients}
        self.passes = dict.fromkeys(self.clients, 0)
        self.turns: dict[int, Iterator[Turn]] = {}
        self.sent: list[Message] = []
        self.done = self.round = 0

    def replica(self) -> AsynchronousReplica:
        limit = window_limit(self.setup.update, self.setup.fraction, len(self.samples))
        return AsynchronousReplica(
            Assembly(self.setup, self.settings), self.store, "run", lambda n: Schedule(self.settings, n, self.samples),
            limit=limit, unit=str(self.setup.update["unit"]),
        )  # fmt: skip

    def federation(self) -> AsynchronousFederation:
        rule = Mixing(self.settings.recipe, self.samples, len(self.samples))
        return AsynchronousFederation(Assembly(self.setup, self.settings), self.store, "run", lambda: rule)

    def luck(self) -> bool:
        return self.random.random() < self.chaos

    def server(self, which: list[Any], make: Any) -> Any:
        index = self.random.randrange(len(which))
        if self.luck():
            which[index] = make()
        return which[index]

    def ask(self, request: Message) -> Message:
        request = decode(encode(request))
        if self.sent and self.luck():
            self.server(self.replicas, self.replica).answer(self.random.choice(self.sent))  # of long ago
        self.sent.append(request)
        reply = self.server(self.replicas, self.replica).answer(request)
        if self.luck():
            again = self.server(self.replicas, self.replica).answer(request)
            assert encode(again) == encode(reply), "a repeated request gets the same answer"
        return decode(encode(reply))

    def act(self, number: int) -> None:
        """Let a client do what comes next."""
        client, recipient = self.clients[number], self.recipients[number]
        if number not in self.turns:
            passes = self.passes[number] + 1
            federation = self.server(self.federations, self.federation)
            message = federation.weights(passes, number, None)
            if self.luck():
                again = self.server(self.federations, self.federation).weights(passes, number, None)
                assert encode(again) == encode(message)
            for name, weights in recipient.take(decode(encode(message)), whole=True).items():
                client.parts[name].write(weights)
            self.passes[number] = passes
            self.turns[number] = client.turns(passes)
            return
        turn = next(self.turns[number], None)
        if turn is not None:
            request = next(turn)
            try:
                turn.send(self.ask(request))
            except StopIteration:
                return
        update = recipient.update(number, {"encoder": client.parts["encoder"].snapshot()}, self.samples[number])
        for _ in range(1 + self.luck()):
            federation = self.server(self.federations, self.federation)
            federation.update(self.passes[number], number, self.samples[number], decode(encode(update)))
        del self.turns[number]
        self.done += 1

    def run(self, rounds: int) -> dict[str, Any]:
        pace = {n: self.random.choice([1, 2, 8]) for n in self.clients}
        for number in range(self.round + 1, rounds + 1):
            self.round = number
            while self.done < number * len(self.clients):
                self.act(self.random.choices(list(pace), list(pace.values()))[0])
            for _ in range(1 + self.luck()):
                self.server(self.federations, self.federation).aggregate(number)
            for _ in range(1 + self.luck()):
                self.server(self.replicas, self.replica).finish(number)
        order = self.federations[0].order(rounds)
        states = self.replicas[0].states
        batches = [states.round(n)["members"] for n in range(1, rounds + 1)]
        return {"batches": batches, "updates": order["rounds"], "taken": order["taken"]}

    def weights(self, rounds: int) -> dict[str, Tensor]:
        backbone = self.replica().part_after(rounds, 0).snapshot()
        return {**self.federation().mean(rounds)["encoder"], **backbone}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("chaos", [0.0, 0.25])
@pytest.mark.parametrize(
    "keys",
    [{}, {"update": 1}, {"update": {"every": 150, "unit": "samples"}, "codec": "int8"}, {"update": "round"}],
    ids=["window", "batch", "samples, int8", "round"],
)
def test_the_weights_are_those_of_the_order(keys: dict[str, Any], chaos: float, seed: int) -> None:
    fleet = Fleet(chaos, seed, **keys)
    order = fleet.run(4)
    expected, found = replayed(fleet.experiment, order), fleet.weights(4)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    counts = Counter(tuple(key) for each in order["batches"] for key in each)
    assert set(counts.values()) == {1}


def test_what_is_over_is_deleted() -> None:
    fleet = Fleet(0.0, 0)
    left = []
    for rounds in range(3, 12):
        fleet.run(rounds)
        kept = Counter(path.split("/")[2] for path in fleet.store.list("runs/run"))
        left.append(kept["steps"] + kept["arrivals"] + kept["mixes"] + kept["updates"] + kept["versions"])
        ends = [path for path in fleet.store.list("runs/run/states") if path.endswith("end")]
        assert len(ends) <= 2
        assert kept["taken"] <= 2 * len(fleet.clients)
    assert max(left[4:]) < 2 * max(left[:4])


def test_a_replica_that_slept_for_rounds_finds_its_way() -> None:
    fleet = Fleet(0.0, 1)
    sleeper, slept = fleet.replicas.pop(), fleet.federations.pop()
    fleet.act(0)
    fleet.act(0)
    sleeper._catch_up()
    slept.weights(1, 0, None)
    order = fleet.run(4)
    fleet.replicas, fleet.federations = [sleeper], [slept]
    for _ in range(12):
        fleet.act(2)
    late = fleet.replica()
    late._catch_up()
    sleeper._catch_up()
    assert late._stand == sleeper._stand
    for one, other in zip(late.server.backbone.weights, sleeper.server.backbone.weights, strict=True):
        assert torch.equal(one, other)
    assert order["batches"]


def test_an_answer_that_is_not_at_hand_any_more_is_said_to_be_stale() -> None:
    fleet = Fleet(0.0, 2)
    fleet.run(4)
    reply = fleet.replica().answer(fleet.sent[0])
    assert reply.meta["stale"]
    turn = next(fleet.clients[0].turns(1))
    next(turn)
    before = fleet.clients[0].parts["encoder"].snapshot()
    with pytest.raises(StopIteration):
        turn.send(reply)
    after = fleet.clients[0].parts["encoder"].snapshot()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_store_that_is_away_is_no_beginning() -> None:
    fleet = Fleet(0.0, 3)
    fleet.run(2)
    fleet.store = MemoryStore()
    later = next(m for m in fleet.sent if m.meta["key"][1] > 1)
    with pytest.raises(MissingObject):
        fleet.replica().answer(later)
    with pytest.raises(MissingObject):
        fleet.federation().weights(3, 0, None)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"round": 7}, WireError, "expected an update with"),
        ({"samples": 1}, WireError, "expected an update with"),
        ({"nan": True}, TrainingError, "not finite"),
        ({"shape": True}, WireError, "expected"),
    ],
)
def test_updates_of_the_wrong_form_are_refused(change: dict[str, Any], error: type[Exception], sentence: str) -> None:
    fleet = Fleet(0.0, 4)
    fleet.act(1)
    update = fleet.recipients[1].update(1, {"encoder": fleet.clients[1].parts["encoder"].snapshot()}, fleet.samples[1])
    name = next(iter(update.tensors))
    if "nan" in change:
        update.tensors[name] = update.tensors[name] * float("nan")
    elif "shape" in change:
        update.tensors[name] = update.tensors[name][:1].clone()
    else:
        update.meta.update(change)
    federation = fleet.federation()
    with pytest.raises(error, match=sentence):
        federation.update(1, 1, fleet.samples[1], update)
    assert federation.order(0)["rounds"] == [[]]


def test_an_update_counts_once_and_needs_weights() -> None:
    fleet = Fleet(0.0, 4)
    fleet.act(1)
    parts = {"encoder": fleet.clients[1].parts["encoder"].snapshot()}
    update = fleet.recipients[1].update(1, parts, fleet.samples[1])
    federation = fleet.federation()
    with pytest.raises(WireError, match="took no weights"):
        federation.update(1, 2, fleet.samples[2], update)
    for _ in range(3):
        federation.update(1, 1, fleet.samples[1], update)
        fleet.federation().update(1, 1, fleet.samples[1], update)
    assert federation.order(0)["rounds"] == [[(1, 1)]]
    assert federation.weights(1, 1, None).meta == {"round": 0}
    fleet.run(3)
    with pytest.raises(Closed):
        fleet.federation().weights(1, 1, None)


def test_of_two_that_take_a_number_at_once_one_gets_it() -> None:
    store = MemoryStore()
    one, other = Arrivals(store, "arrivals"), Arrivals(store, "arrivals")
    assert one.take(0, {"batch": [1]})
    assert not other.take(0, {"batch": [2]})
    assert one.take(0, {"batch": [1]})
    assert other.get(0) == {"batch": [1]}
