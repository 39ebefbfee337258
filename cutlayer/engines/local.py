"""The local engine: all roles in one process, one round at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any

from torch import Tensor

from cutlayer.engines.exchange import WeightExchange
from cutlayer.engines.pooled import pooled
from cutlayer.engines.setup import Setup
from cutlayer.errors import TrainingError
from cutlayer.roles.assembly import AUXILIARY, BACKBONE, Assembly
from cutlayer.roles.client import Client, Progress, Turn
from cutlayer.roles.coordinator import Plan, order, plan
from cutlayer.roles.schedule import window_limit
from cutlayer.roles.settings import Settings
from cutlayer.roles.split_server import SplitServer
from cutlayer.roles.weights import handover
from cutlayer.roles.window import Window
from cutlayer.store import MemoryStore
from cutlayer.transport import InProcess, Traffic
from cutlayer.wire import Message


class LocalEngine:
    """Runs the roles of one experiment in this process.

    ``round()`` trains one round and returns its metrics.
    """

    overlaps = False
    """Whether clients are in the middle of their work when a round ends."""

    def __init__(self, setup: Setup, settings: Settings) -> None:
        self.setup, self.settings, self.recipe = setup, settings, settings.recipe
        self.done = 0
        self.holder = 0
        """The client that holds the parts that a relay hands on."""
        self._given: dict[str, Message] = {}
        self.aligned: dict[int, int] = {}
        """Clients whose auxiliary was aligned after a round and waits to be sent, with that round."""
        self.traffic = Traffic()
        self.on_batch: Callable[[int, int], None] | None = None
        self._seconds = {"client": 0.0, "server": 0.0, "federated": 0.0, "evaluation": 0.0}
        self.joined = setup.split.copy().to(settings.device)
        self.assembly = Assembly(setup, settings)
        self.first, self.channel = self.assembly.first, self.assembly.channel
        self.clients: dict[int, Client] = {}
        self.shares = pooled(setup.shares) if self.recipe.pooled else list(setup.shares)
        self.transport = InProcess(self._handle, self._handle_together, self.traffic, encoded=setup.encoded)
        self.exchange = WeightExchange(self.transport, self.channel, settings.seed)
        self.server = self._server() if self.recipe.server != "none" else None
        self.shared_parts = self.assembly.shared
        self.personal_parts = self.assembly.personal
        self.federated = self.assembly.federated(self.shared_parts)
        self.backbones = self.assembly.federated((BACKBONE,) if self.assembly.averages_backbones else ())

    # --- one round ----------------------------------------------------------------------------------------------

    def round(self) -> dict[str, Any]:
        """Train one round and return its metrics, without those of an evaluation.

        Raises TrainingError when the loss is not finite.
        """
        start = perf_counter()
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        now = plan(self.recipe, self.settings.seed, self.done + 1, len(self.shares), self.setup.fraction)
        clients = [self.client(i) for i in now.clients]
        if self.recipe.schedule == "relay" and self.done and not self._given:  # after a resume
            self._given = {name: handover(part) for name, part in self.clients[self.holder].parts.items()}
        for client in clients:
            client.begin_round(now.round)
        if self.server is not None:
            self.server.begin_round(now.round)
        self._hand_out(now, clients)
        self._train(now, clients)
        if self.server is not None:
            self._timed("server", self.server.update)
        self._timed("federated", lambda: self._average(now, clients))
        self._align(now, clients)
        self.done += 1
        return self._metrics(now.round, {c.number: c.report() for c in clients}, perf_counter() - start)

    def _hand_out(self, now: Plan, clients: Sequence[Client]) -> None:
        shared = self.shared_parts
        if shared:
            sent = self.exchange.broadcast(self.federated.parts, now.round)
            self.federated.parts = {name: dict(tensors) for name, tensors in sent.items()}
        self.federated.open(now.round)
        for client in clients:
            if shared:
                self.exchange.send_down(client.number, client.parts, shared)
            if client.number in self.aligned and self.server is not None and self.server.aligner is not None:
                weights = self.server.aligner.auxiliary(client.number).snapshot()
                since = self.aligned.pop(client.number)
                self.exchange.personal(client.number, AUXILIARY, client.parts[AUXILIARY], weights, since)
        if self.recipe.schedule == "relay" and self.done == 0:
            self.holder = clients[0].number
            self.exchange.first(self.holder, clients[0].parts)

    def _train(self, now: Plan, clients: Sequence[Client]) -> None:
        turns = {c.number: c.turns(now.round) for c in clients}
        if self.recipe.grouped:
            self._run_together(turns)
            return
        if self.recipe.schedule == "relay":
            for client in clients:
                self._take_over(client, now.round)
                for turn in turns[client.number]:
                    self._run(turn)
                self._given = self.exchange.give(client.parts)
            return
        for number in order(self.recipe, {c.number: c.turn_count for c in clients}):
            self._run(next(turns[number]))

    def _run_together(self, turns: dict[int, Iterator[Turn]]) -> None:
        while turns:
            current = {client: turn for client in turns if (turn := next(turns[client], None)) is not None}
            turns = {client: turns[client] for client in current}
            requests = [next(turn) for turn in current.values()]
            if requests:
                for turn, reply in zip(current.values(), self.transport.request_together(requests), strict=True):
                    _finish(turn, reply)
                self._tick(len(requests))

    def _run(self, turn: Turn) -> None:
        try:
            request = next(turn)
            while True:
                request = turn.send(self.transport.request(request))
        except StopIteration:
            pass
        if self.server is not None and self.server.window is not None and self.server.window.full:
            self._timed("server", self.server.update)
        self._tick(1)

    def _average(self, now: Plan, clients: Sequence[Client]) -> None:
        for client in clients:
            if self.shared_parts:
                samples = len(client.samples)
                arrived = self.exchange.send_up(client.number, client.parts, self.shared_parts, samples)
                self.federated.receive(now.round, client.number, samples, arrived)
        self.federated.close()
        if self.assembly.averages_backbones and self.server is not None:
            self.backbones.open(now.round)
            for client in clients:
                weights = self.server.part(client.number).snapshot()
                self.backbones.receive(now.round, client.number, len(client.samples), {BACKBONE: weights})
            mean = self.backbones.close()[BACKBONE]
            for part in [self.server.backbone, *self.server.copies.values()]:
                part.write(mean)

    def _align(self, now: Plan, clients: Sequence[Client]) -> None:
        if self.server is None or self.server.aligner is None or (now.round - 1) % self.recipe.align_every:
            return
        for client in clients:
            start = perf_counter()
            weights = self.server.aligner.align(client.number, self.server.backbone.module, now.round)
            self._seconds["server"] += perf_counter() - start
            if weights is not None:
                self.aligned[client.number] = now.round

    def _metrics(self, number: int, reports: Mapping[int, Progress], seconds: float) -> dict[str, Any]:
        samples = sum(r.samples for r in reports.values())
        losses = {c: float(r.loss) / r.samples for c, r in reports.items() if r.loss is not None}
        loss = sum(losses[c] * reports[c].samples for c in losses) / max(samples, 1)
        bad = [c for c, value in losses.items() if not math.isfinite(value)]
        if bad:
            raise TrainingError(
                f"expected a finite loss, got {losses[bad[0]]} at client {bad[0]} in round {number}; lower the "
                "learning rate, clip gradients (clip=1.0), or look for NaN in the data"
            )
        up, down, kinds = self.traffic.take()
        federated, server = self._seconds["federated"], self._seconds["server"]
        return {
            "round": number,
            "loss": loss,
            "clients": len(reports),
            "samples": samples,
            "bytes_up": up,
            "bytes_down": down,
            "bytes": kinds,
            "client_loss": {str(c): v for c, v in losses.items()},
            "client_samples": {str(c): r.samples for c, r in reports.items()},
            "seconds": seconds,
            "time": {"client": max(seconds - federated - server, 0.0), "server": server, "federated": federated},
        }

    def standing(self) -> dict[str, Any]:
        """Return who is at work on what, as JSON; between rounds nobody is."""
        return {}

    def stand(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`standing` returned, weights being in their places."""

    # --- whose weights -----------------------------------------------------------------------------------------

    def current(self, name: str, client: int | None) -> Mapping[str, Tensor]:
        """Return the live weights of part ``name``, the client's own where parts are personal."""
        if client is not None and name in self.personal_parts:
            if name == BACKBONE and self.server is not None:
                return self.server.part(client).read() if client in self.server.copies else self.first[name].read()
            return self.clients[client].parts[name].read() if client in self.clients else self.first[name].read()
        if name in self.shared_parts:
            return self.federated.parts[name]
        if name == BACKBONE and self.server is not None:
            return self.server.backbone.read()
        if (self.recipe.pooled or self.recipe.schedule == "relay") and self.clients:
            return self.clients[self.holder].parts[name].read()
        return self.first[name].read()

    # --- building -----------------------------------------------------------------------------------------------

    def _server(self) -> SplitServer:
        store = self.setup.store if self.recipe.durable and self.setup.store is not None else MemoryStore()
        server = self.assembly.server(store, self.setup.run_name)
        if self.recipe.step == "window":
            unit = str(self.setup.update["unit"])
            limit = window_limit(self.setup.update, self.setup.fraction, len(self.shares))
            server.window = Window(store, self.setup.run_name, server.backbone, server.records, limit=limit, unit=unit)
            server.window.begin(0, server.backbone)
        return server

    def client(self, number: int) -> Client:
        if number not in self.clients:
            client = self.assembly.client(number, self.shares[number].train)
            self.clients[number] = client
            if self.recipe.server != "none" and self.recipe.schedule != "relay":
                unshared = {n: p for n, p in client.parts.items() if n not in self.recipe.averaged}
                if unshared:
                    self.exchange.first(number, unshared)
        return self.clients[number]

    def _take_over(self, client: Client, round_number: int) -> None:
        if client.number != self.holder:
            self.exchange.take(self._given, client.parts)
            client.begin_round(round_number)  # the giver's schedule stands where it last took part
            self.holder = client.number

    # --- plumbing -----------------------------------------------------------------------------------------------

    def _handle(self, message: Message) -> Message:
        assert self.server is not None
        start = perf_counter()
        reply = self.server.handle(message)
        self._seconds["server"] += perf_counter() - start
        return reply

    def _handle_together(self, messages: Sequence[Message]) -> list[Message]:
        assert self.server is not None
        start = perf_counter()
        replies = self.server.handle_together(messages)
        self._seconds["server"] += perf_counter() - start
        return replies

    def _timed(self, what: str, work: Callable[[], Any]) -> None:
        start = perf_counter()
        work()
        self._seconds[what] += perf_counter() - start

    def _tick(self, batches: int) -> None:
        if self.on_batch is not None:
            self.on_batch(self.done + 1, batches)


def _finish(turn: Turn, reply: Message) -> None:
    try:
        turn.send(reply)
    except StopIteration:
        return
    raise TrainingError("a recipe whose server waits for all clients sends one request a batch; this one sent two")
