"""Whole runs on replicas that come and go: the clients of an experiment, and split servers that keep nothing."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from cutlayer.config import load
from cutlayer.engines.prepare import Prepared, prepare
from cutlayer.errors import MissingObject
from cutlayer.roles.assembly import AUXILIARY, BACKBONE, Assembly
from cutlayer.roles.client import Client
from cutlayer.roles.coordinator import plan
from cutlayer.roles.replica import NotYet, Replica
from cutlayer.roles.schedule import Schedule, window_limit
from cutlayer.roles.window_replica import WindowReplica
from cutlayer.store import MemoryStore, TensorStore
from cutlayer.store.steps import Closed
from cutlayer.wire import Message, decode, encode

AnyReplica = Replica | WindowReplica


class Fleet:
    """Trains an experiment on ``count`` replicas: ``chaos`` is the chance that something happens at a request."""

    def __init__(self, keys: dict[str, Any], *, count: int = 2, chaos: float = 0.0, seed: int = 0) -> None:
        torch.set_num_threads(1)  # as the experiments say: their number has a say in rounding
        self.experiment = load(None, (), **keys)
        self.prepared: Prepared = prepare(self.experiment)
        self.store: TensorStore = MemoryStore()
        self.random = random.Random(seed)
        self.chaos = chaos
        self.round = 0
        self.sent: list[Message] = []
        self.plans: dict[int, dict[int, int]] = {}
        self.setup, self.settings = self.prepared.setup, self.prepared.settings
        self.recipe = self.settings.recipe
        self.assembly = Assembly(self.setup, self.settings)
        self.clients: dict[int, Client] = {}
        self.federated = self.assembly.federated(self.assembly.shared)
        self.holder: int | None = None
        self.replicas = [self.replica() for _ in range(count)]

    def replica(self) -> AnyReplica:
        assembly = Assembly(self.setup, self.settings)
        if self.recipe.step != "window":
            return Replica(assembly, self.store, "run", self.schedule)
        limit = window_limit(self.setup.update, self.setup.fraction, len(self.setup.shares))
        unit = str(self.setup.update["unit"])
        return WindowReplica(assembly, self.store, "run", self.schedule, limit=limit, unit=unit)

    def schedule(self, number: int) -> Schedule:
        return Schedule(self.settings, number, self.plans[number])

    def ask(self, message: Message) -> Message:
        """Send a request to some replica, which may be killed before or after, or asked twice."""
        message = decode(encode(message))
        index = self.random.randrange(len(self.replicas))
        if self.random.random() < self.chaos:
            self.replicas[index] = self.replica()
        if self.sent and self.random.random() < self.chaos:
            self.ask_late(self.random.choice(self.sent))
        self.sent.append(message)
        reply = self.replicas[index].answer(message)
        self.settle(index)
        if self.random.random() < self.chaos:
            self.replicas[index] = self.replica()
        if self.random.random() < self.chaos:
            other = self.random.randrange(len(self.replicas))
            again = self.replicas[other].answer(message)
            self.settle(other)
            assert encode(again) == encode(reply), "a repeated request gets the same answer"
        return decode(encode(reply))

    def ask_late(self, message: Message) -> None:
        """Let a request of long ago arrive once more: nobody waits for an answer."""
        index = self.random.randrange(len(self.replicas))
        with suppress(NotYet, Closed, MissingObject):
            self.replicas[index].answer(message)
            self.settle(index)

    def settle(self, index: int) -> None:
        found = self.replicas[index]
        if isinstance(found, WindowReplica):
            found.peers = len(self.replicas) if self.random.random() < 0.5 else 1
            found.settle()

    def run(self, rounds: int) -> dict[str, dict[str, Tensor]]:
        for _ in range(rounds):
            self.one_round()
        return self.weights()

    def one_round(self) -> None:
        self.round += 1
        shares = self.setup.shares
        now = plan(self.recipe, self.settings.seed, self.round, len(shares), self.setup.fraction)
        self.plans[self.round] = {c: len(shares[c].train) for c in now.clients}
        for number in now.clients:
            if number not in self.clients:
                self.clients[number] = self.assembly.client(number, shares[number].train)
            self.clients[number].begin_round(self.round)
            for name in self.assembly.shared:
                self.clients[number].parts[name].write(self.federated.parts[name])
        self.federated.open(self.round)
        if self.recipe.schedule != "interleaved":
            for number in now.clients:
                if self.recipe.schedule == "relay":
                    self.take_over(self.clients[number])
                self.train_together([self.clients[number]])
        else:
            self.train_together([self.clients[c] for c in now.clients])
        if self.recipe.server != "none":
            for _ in range(2 if self.random.random() < self.chaos else 1):
                self.finish()
        for number in now.clients:
            if self.assembly.shared:
                parts = {name: self.clients[number].parts[name].snapshot() for name in self.assembly.shared}
                self.federated.receive(self.round, number, self.plans[self.round][number], parts)
        self.federated.close()

    def finish(self) -> None:
        index = self.random.randrange(len(self.replicas))
        self.replicas[index].finish(self.round)
        if self.recipe.feedback == "estimated":
            for number in self.plans[self.round]:
                replica = self.replicas[index]
                assert isinstance(replica, Replica)
                if replica.states.aligned(self.round, number):
                    found = replica.states.auxiliary(self.round + 1, number)
                    assert found is not None
                    weights = {k.removeprefix("weights/"): t for k, t in found[0].items() if k.startswith("weights/")}
                    self.clients[number].parts[AUXILIARY].write(weights)

    def take_over(self, client: Client) -> None:
        if self.holder is not None and self.holder != client.number:
            for name, part in self.clients[self.holder].parts.items():
                client.parts[name].load_state(*part.state())
            client.begin_round(self.round)
        self.holder = client.number

    def train_together(self, clients: list[Client]) -> None:
        """Let clients work at once, in a random order of their requests; those that come too early come again."""
        turns = {c.number: c.turns(self.round) for c in clients}
        waiting: dict[int, tuple[Any, Message]] = {}
        for number in list(turns):
            self.next_turn(number, turns, waiting)
        idle = 0
        while waiting:
            number = self.random.choice(sorted(waiting))
            turn, request = waiting[number]
            try:
                reply = self.ask(request)
            except NotYet:
                idle += 1
                assert idle < 10_000, "clients wait for each other"
                continue
            idle = 0
            try:
                waiting[number] = turn, turn.send(reply)
            except StopIteration:
                self.next_turn(number, turns, waiting)

    def next_turn(self, number: int, turns: dict[int, Any], waiting: dict[int, tuple[Any, Message]]) -> None:
        waiting.pop(number, None)
        for turn in turns[number]:
            try:
                waiting[number] = turn, next(turn)
                return
            except StopIteration:
                continue

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Return what all parts are now, as the local engine would join them."""
        found: dict[str, dict[str, Tensor]] = {}
        for name in self.settings.parts:
            if name in self.assembly.shared:
                found[name] = dict(self.federated.parts[name])
            elif name == BACKBONE and self.recipe.server != "none":
                found[name] = self.replicas[0].part_after(self.round, 0).snapshot()
            elif self.holder is not None:
                found[name] = self.clients[self.holder].parts[name].snapshot()
        return found
