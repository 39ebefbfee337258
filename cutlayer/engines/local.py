"""The local engine: all roles in one process, one round at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from cutlayer.codecs import parse
from cutlayer.cutting import SplitModel
from cutlayer.data import Dataset, Share
from cutlayer.engines.exchange import WeightExchange
from cutlayer.engines.pooled import pooled
from cutlayer.errors import TrainingError
from cutlayer.roles.alignment import Aligner
from cutlayer.roles.client import Augmentation, Client, Turn
from cutlayer.roles.coordinator import Plan, plan
from cutlayer.roles.evaluation import Score, evaluate
from cutlayer.roles.federated import FederatedServer
from cutlayer.roles.part import Part
from cutlayer.roles.settings import Settings
from cutlayer.roles.split_server import SplitServer
from cutlayer.roles.window import Window
from cutlayer.store import ForwardRecords, MemoryStore, TensorStore
from cutlayer.transport import InProcess, Traffic
from cutlayer.wire import Message

ENCODER, BACKBONE, HEAD, AUXILIARY = "encoder", "backbone", "head", "auxiliary"


@dataclass(frozen=True)
class Setup:
    """What a run needs beside its settings: model, data, and the choices of the experiment."""

    split: SplitModel
    dataset: Dataset
    shares: Sequence[Share]
    optimizers: Mapping[str, Mapping[str, Any]]
    auxiliary: nn.Module | None = None
    codec: Any = "fp32"
    aggregator: Mapping[str, Any] = field(default_factory=lambda: {"name": "fedavg"})
    update: Mapping[str, Any] = field(default_factory=lambda: {"every": "clients", "unit": "batches"})
    fraction: float = 1.0
    clip: float | None = None
    augment: Augmentation | None = None
    prepare: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None = None
    store: TensorStore | None = None
    run_name: str = "run"
    encoded: bool = False
    evaluation_batch: int = 512


class LocalEngine:
    """Runs the roles of one experiment in this process.

    ``round()`` trains one round and returns its metrics; ``state()`` is all that a later process needs to go on.
    """

    def __init__(self, setup: Setup, settings: Settings) -> None:
        self.setup, self.settings, self.recipe = setup, settings, settings.recipe
        self.done = 0
        self.traffic = Traffic()
        self.on_batch: Callable[[int, int], None] | None = None
        self._seconds = {"client": 0.0, "server": 0.0, "federated": 0.0, "evaluation": 0.0}
        self.joined = setup.split.copy().to(settings.device)
        self._first = {name: self._part(name, module) for name, module in self._modules().items()}
        self.channel = parse(setup.codec)
        self.clients: dict[int, Client] = {}
        self._shares = pooled(setup.shares) if self.recipe.pooled else list(setup.shares)
        self.transport = InProcess(self._handle, self._handle_together, self.traffic, encoded=setup.encoded)
        self.exchange = WeightExchange(self.transport, self.channel, settings.seed)
        self.server = self._server() if self.recipe.server != "none" else None
        held = self.recipe.client_parts(settings.parts)
        self.shared_parts = tuple(p for p in held if p in self.recipe.averaged)
        rule = setup.aggregator
        self.federated = FederatedServer({p: self._first[p].read() for p in self.shared_parts}, rule)
        self.backbones = FederatedServer(
            {BACKBONE: self._first[BACKBONE].read()} if self._averages_backbones else {}, rule
        )

    # --- one round ----------------------------------------------------------------------------------------------

    def round(self) -> dict[str, Any]:
        """Train one round and return its metrics, without those of :meth:`evaluate`.

        Raises TrainingError when the loss is not finite.
        """
        start = perf_counter()
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        now = plan(self.recipe, self.settings.seed, self.done + 1, len(self._shares), self.setup.fraction)
        clients = [self._client(i) for i in now.clients]
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
        return self._metrics(now, clients, perf_counter() - start)

    def _hand_out(self, now: Plan, clients: Sequence[Client]) -> None:
        shared = self.shared_parts
        if shared:
            sent = self.exchange.broadcast(self.federated.parts, now.round)
            self.federated.parts = {name: dict(tensors) for name, tensors in sent.items()}
        self.federated.open(now.round)
        for client in clients:
            if shared:
                self.exchange.send_down(client.number, now.round - 1, client.parts, shared)
        if self.recipe.schedule == "relay" and self.done == 0:
            self._last = clients[0].number
            self.exchange.first(self._last, clients[0].parts)

    def _train(self, now: Plan, clients: Sequence[Client]) -> None:
        turns = {c.number: c.turns(now.round) for c in clients}
        if self.recipe.schedule == "relay":
            for client in clients:
                self._take_over(client)
                self._run_all(turns[client.number])
        elif self.recipe.schedule == "sequential":
            for client in clients:
                self._run_all(turns[client.number])
        elif self.recipe.grouped:
            self._run_together(turns)
        else:
            self._run_interleaved(turns)

    def _run_all(self, turns: Iterator[Turn]) -> None:
        for turn in turns:
            self._run(turn)

    def _run_interleaved(self, turns: dict[int, Iterator[Turn]]) -> None:
        """One batch of every client, in order of their numbers, until all are through."""
        while turns:
            for client in list(turns):
                turn = next(turns[client], None)
                if turn is None:
                    del turns[client]
                else:
                    self._run(turn)

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
        if self._averages_backbones and self.server is not None:
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
                self.exchange.personal(client.number, AUXILIARY, client.parts[AUXILIARY], weights, now.round)

    def _metrics(self, now: Plan, clients: Sequence[Client], seconds: float) -> dict[str, Any]:
        reports = {c.number: c.report() for c in clients}
        samples = sum(r.samples for r in reports.values())
        losses = {c: float(r.loss) / r.samples for c, r in reports.items() if r.loss is not None}
        loss = sum(losses[c] * reports[c].samples for c in losses) / max(samples, 1)
        bad = [c for c, value in losses.items() if not math.isfinite(value)]
        if bad:
            raise TrainingError(
                f"expected a finite loss, got {losses[bad[0]]} at client {bad[0]} in round {now.round}; lower the "
                "learning rate, clip gradients (clip=1.0), or look for NaN in the data"
            )
        up, down, kinds = self.traffic.take()
        federated, server = self._seconds["federated"], self._seconds["server"]
        return {
            "round": now.round,
            "loss": loss,
            "clients": len(clients),
            "samples": samples,
            "bytes_up": up,
            "bytes_down": down,
            "bytes": kinds,
            "client_loss": {str(c): v for c, v in losses.items()},
            "client_samples": {str(c): r.samples for c, r in reports.items()},
            "seconds": seconds,
            "time": {"client": max(seconds - federated - server, 0.0), "server": server, "federated": federated},
        }

    # --- evaluation ---------------------------------------------------------------------------------------------

    def evaluate(self) -> dict[str, Any]:
        """Return the metrics of the model as it is: on the global test set, and on every client's own test split.

        Where clients keep encoders or heads of their own there is no one model: ``test_accuracy`` is then the mean over
        clients, weighted by samples, of each one's model on the whole global test set.
        """
        start = perf_counter()
        personal = self.personal_parts
        own: dict[int, Score] = {}
        if personal:
            total = Score()
            weighted, weight = 0.0, 0
            for number, share in enumerate(self._shares):
                self._write_joined(number)
                score = self._score(self.setup.dataset.test)
                total += score
                weighted += (score.accuracy or 0.0) * len(share.train)
                weight += len(share.train)
                own[number] = self._score(share.test)
            accuracy: float | None = weighted / max(weight, 1)
        else:
            self._write_joined(None)
            total = self._score(self.setup.dataset.test)
            accuracy = total.accuracy
            own = {number: self._score(share.test) for number, share in enumerate(self.setup.shares)}
        return {
            "test_accuracy": accuracy,
            "test_loss": total.mean_loss,
            "client_accuracy": {str(c): s.accuracy for c, s in own.items() if s.count},
            "confusion": None if total.confusion is None else total.confusion.tolist(),
            "evaluation_seconds": perf_counter() - start,
        }

    def model(self) -> dict[str, Tensor]:
        """Return the joined model's ``state_dict``; parts that are personal are averaged, weighted by samples."""
        if self.personal_parts:
            from cutlayer.roles.aggregators import weighted_mean

            states = []
            for number, share in enumerate(self._shares):
                self._write_joined(number)
                states.append((len(share.train), {k: t.detach().clone() for k, t in self.joined.state_dict().items()}))
            return weighted_mean(states)
        self._write_joined(None)
        return {k: t.detach().clone() for k, t in self.joined.state_dict().items()}

    @property
    def personal_parts(self) -> tuple[str, ...]:
        """The parts of which every client ends a round with its own."""
        if self.recipe.pooled or self.recipe.schedule == "relay":
            return ()
        held = [p for p in self.recipe.client_parts(self.settings.parts) if p != AUXILIARY]
        if self.recipe.feedback == "none":
            held.remove(ENCODER)
        if self.recipe.server == "per_client":
            held.append(BACKBONE)
        return tuple(p for p in held if p not in self.recipe.averaged)

    def _write_joined(self, client: int | None) -> None:
        for name, module in self.joined.parts.items():
            source = self._current(name, client)
            with torch.no_grad():
                for key, tensor in module.state_dict(keep_vars=True).items():
                    tensor.copy_(source[key])

    def _current(self, name: str, client: int | None) -> Mapping[str, Tensor]:
        """Return the live weights of part ``name``, the client's own where parts are personal."""
        if client is not None and name in self.personal_parts:
            if name == BACKBONE and self.server is not None:
                return self.server.part(client).read() if client in self.server.copies else self._first[name].read()
            return self.clients[client].parts[name].read() if client in self.clients else self._first[name].read()
        if name in self.shared_parts:
            return self.federated.parts[name]
        if name == BACKBONE and self.server is not None:
            return self.server.backbone.read()
        if (self.recipe.pooled or self.recipe.schedule == "relay") and self.clients:
            return self.clients[self._last].parts[name].read()
        return self._first[name].read()

    def _score(self, samples: Any) -> Score:
        return evaluate(
            list(self.joined.parts.values()),
            samples,
            self.settings.loss,
            self.setup.dataset.classes,
            batch_size=self.setup.evaluation_batch,
            device=self.settings.device,
            prepare=self.setup.prepare,
            autocast=self.settings.autocast,
        )

    # --- interruption -------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all that later rounds depend on, as tensors and JSON; between rounds only."""
        tensors: dict[str, Tensor] = {}
        meta: dict[str, Any] = {"done": self.done, "last": self._last, "parts": {}}
        for path, part in self._parts().items():
            held, numbers = part.state()
            skip = ("weights/", "buffers/") if part.name in self.shared_parts and path.startswith("client/") else ()
            tensors |= (
                {f"{path}/{k}": t for k, t in held.items() if not k.startswith(skip)}
                if skip
                else {f"{path}/{k}": t for k, t in held.items()}
            )
            meta["parts"][path] = numbers
        for label, found in (("federated", self.federated.state()), ("backbones", self.backbones.state())):
            tensors |= {f"{label}/{k}": t for k, t in found.items()}
        exchange, meta["exchange"] = self.exchange.state()
        tensors |= {f"exchange/{k}": t for k, t in exchange.items()}
        meta["channel"] = {}
        for key, value in self.channel.state_dict().items():
            if isinstance(value, Tensor):
                tensors[f"channel/{key}"] = value
            else:
                meta["channel"][key] = value
        if self.server is not None:
            meta["versions"] = {str(k): v for k, v in self.server.versions().items()}
            for client, (h, y) in (self.server.aligner.kept if self.server.aligner is not None else {}).items():
                tensors |= {f"kept/{client}/h{i}": v for i, v in enumerate(h)} | {f"kept/{client}/y": y}
        return tensors, meta

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""

        def under(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}

        for path in meta["parts"]:
            kind, *names = path.split("/")
            if kind == "client" and int(names[0]) not in self.clients:
                self._client(int(names[0]))
            elif kind == "copy" and self.server is not None:
                self.server.part(int(names[0]))
            elif kind == "aligned" and self.server is not None and self.server.aligner is not None:
                self.server.aligner.auxiliary(int(names[0]))
        for path, part in self._parts().items():
            part.load_state(under(f"{path}/"), meta["parts"][path])
        self.federated.load_state(under("federated/"))
        self.backbones.load_state(under("backbones/"))
        self.exchange.load_state(under("exchange/"), meta["exchange"])
        self.channel.load_state_dict({**under("channel/"), **meta["channel"]})
        if self.server is not None:
            self.server.load_versions({int(k): v for k, v in meta["versions"].items()})
            if self.server.aligner is not None:
                for client in {k.split("/")[0] for k in under("kept/")}:
                    kept = under(f"kept/{client}/")
                    h = [kept[f"h{i}"] for i in range(len(kept) - 1)]
                    self.server.aligner.kept[int(client)] = h, kept["y"]
        self.done, self._last = meta["done"], meta["last"]
        self.traffic.take()

    def _parts(self) -> dict[str, Part]:
        found = {f"client/{c}/{name}": p for c, client in self.clients.items() for name, p in client.parts.items()}
        if self.server is not None:
            found["server"] = self.server.backbone
            found |= {f"copy/{c}": p for c, p in self.server.copies.items()}
            if self.server.aligner is not None:
                found |= {f"aligned/{c}": p for c, p in self.server.aligner.auxiliaries.items()}
        return found

    # --- building -----------------------------------------------------------------------------------------------

    def _modules(self) -> dict[str, nn.Module]:
        parts: dict[str, nn.Module] = dict(self.setup.split.copy().parts)
        if self.recipe.local_loss and self.setup.auxiliary is not None:
            parts[AUXILIARY] = self.setup.auxiliary
        return parts

    def _part(self, name: str, module: nn.Module) -> Part:
        role = {BACKBONE: "client" if self.recipe.whole else "server", AUXILIARY: "auxiliary"}.get(name, "client")
        spec = self.setup.optimizers[role]
        return Part(name, module.to(self.settings.device), spec, clip=self.setup.clip)

    def _server(self) -> SplitServer:
        store = self.setup.store if self.recipe.durable and self.setup.store is not None else MemoryStore()
        records = ForwardRecords(store, self.setup.run_name)
        backbone = self._first[BACKBONE].copy()
        window = None
        if self.recipe.step == "window":
            unit = str(self.setup.update["unit"])
            window = Window(store, self.setup.run_name, backbone, records, limit=self._window_limit(), unit=unit)
        aligner = Aligner(self._first[AUXILIARY], self.settings) if self.recipe.feedback == "estimated" else None
        return SplitServer(backbone, self.settings, self.channel, records, window, aligner)

    def _window_limit(self) -> int | None:
        every = self.setup.update["every"]
        if every == "clients":
            return max(1, round(self.setup.fraction * len(self._shares)))
        return None if every == "round" else int(every)

    def _client(self, number: int) -> Client:
        if number not in self.clients:
            held = self.recipe.client_parts(self.settings.parts)
            client = Client(
                number,
                self._shares[number].train,
                {name: self._first[name].copy() for name in held},
                self.settings,
                self.channel,
                self.setup.augment,
            )
            self.clients[number] = client
            if self.recipe.server != "none" and self.recipe.schedule != "relay":
                unshared = {n: p for n, p in client.parts.items() if n not in self.recipe.averaged}
                if unshared:
                    self.exchange.first(number, unshared)
        return self.clients[number]

    @property
    def _averages_backbones(self) -> bool:
        return self.recipe.server == "per_client" and BACKBONE in self.recipe.averaged

    _last: int = 0
    """The client that holds the handed-on parts."""

    def _take_over(self, client: Client) -> None:
        if client.number != self._last:
            self.exchange.hand_over(self.clients[self._last].parts, client.parts)
            self._last = client.number

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
