"""One client in one run: its role, its place on disk, and its rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from cutlayer import wire
from cutlayer.errors import TrainingError
from cutlayer.faults import point
from cutlayer.roles.assembly import AUXILIARY
from cutlayer.roles.client import Turn
from cutlayer.roles.weights import Recipient, handover, nested, under
from cutlayer.services.client.data import OwnData
from cutlayer.services.client.place import Place
from cutlayer.services.client.plane import DataPlane
from cutlayer.services.errors import ServiceError
from cutlayer.services.protocol import Task
from cutlayer.services.runs import ServedRun
from cutlayer.transport import Traffic
from cutlayer.wire import Message

OnBatch = Callable[[int, int], None]
"""Told the batches done and those of the round; raises to stop."""


class Member:
    """A client of a run: everything that it holds between tasks is in its place.

    After an exception a member is of no use any more: make a new one, which takes up the place.
    """

    def __init__(self, run: ServedRun, data: OwnData, number: int, place: Place) -> None:
        self.run, self.data, self.number, self._place = run, data, number, place
        self.client = run.assembly.client(number, data.share.train)
        self.recipient = Recipient(run.assembly.channel, run.settings.seed)
        self.traffic = Traffic()
        self.round = 0
        """The round that the client is in, or was in last."""
        self._turn = 0
        self._over = True
        self._result: dict[str, Any] | None = None
        self._began = False
        self._aligned = 0
        self._waited = {"server": 0.0, "federated": 0.0}
        found = place.load()
        if found is not None:
            self._restore(*found)
        self._size = sum(t.numel() * t.itemsize for t in self._state()[0].values())

    # --- a round ------------------------------------------------------------------------------------------------

    def train(self, task: Task, plane: DataPlane, on_batch: OnBatch) -> dict[str, Any]:
        """Train a round, or the rest of it, and return the task's result.

        Raises TrainingError where the loss is not finite, Closed or Conflict where the round goes on without this
        client, Interrupted where the process is told to stop.
        """
        if self._over and self.round == task.round and self._result is not None:
            return self._result
        self.run.use_threads()
        start = perf_counter()
        if self._over or self.round != task.round:
            self._begin(task, plane)
        self._train(task, plane, on_batch)
        self._send(task, plane)
        return self._conclude(start)

    def _begin(self, task: Task, plane: DataPlane) -> None:
        """Fetch what the round begins with, and take the place at its first batch."""
        point("client.task.before_weights")
        self.traffic.take()
        self.client.report()
        self._waited = dict.fromkeys(self._waited, 0.0)
        assembly, recipe, parts = self.run.assembly, self.run.recipe, self.client.parts
        self.client.begin_round(int(task.payload.get("within", task.round)))
        with _Timed(self._waited, "federated"):
            if assembly.shared:
                holds = self.recipient.round
                message = _given(plane.down("weights" if holds is None else f"weights?holds={holds}"))
                received = self.recipient.take(message, whole=recipe.asynchronous)
                for name in assembly.shared:
                    parts[name].write(received[name])
            self._first(task, plane)
            if recipe.feedback == "estimated":
                self._take_personal(plane)
            giver = task.payload.get("giver")
            if recipe.schedule == "relay" and giver is not None and giver != self.number:
                for name, part in parts.items():
                    message = _given(plane.down(f"handovers/{giver}/{name}"))
                    part.load_state(message.tensors, message.meta)
                self.client.begin_round(task.round)  # the giver's schedule stands where it last took part
        self.round, self._turn, self._over, self._result, self._began = task.round, 0, False, None, True
        self._save()
        point("client.task.after_weights")

    def _first(self, task: Task, plane: DataPlane) -> None:
        """Fetch the parts that are never broadcast, once; in a relay only its first client begins with them."""
        recipe, held = self.run.recipe, self.run.assembly.held
        relay = recipe.schedule == "relay"
        wanted = task.payload.get("giver") is None if relay else bool(set(held) - set(recipe.averaged))
        if self._began or recipe.server == "none" or not wanted:
            return
        for name, weights in nested(_given(plane.down("first")).tensors).items():
            self.client.parts[name].write(weights)

    def _take_personal(self, plane: DataPlane) -> None:
        message = plane.down(f"personal?after={self._aligned}")
        if message is not None:
            part = self.client.parts[AUXILIARY]
            part.write(self.recipient.take_personal(self.number, AUXILIARY, part.snapshot(), message))
            self._aligned = int(message.meta["round"])

    def _train(self, task: Task, plane: DataPlane, on_batch: OnBatch) -> None:
        replies = [wire.decode(content) for content in self._place.replies()]
        done, total = self._turn, self.client.turn_count
        for turn in self._turns(task.round):
            self._run(turn, plane, replies)
            done += 1
            self._turn = done
            # while the batch's replies are in the journal it is enough that the place is not far behind
            if not replies and self._place.journaled > self._size:
                self._save()
                point("client.batch.after_checkpoint")
            on_batch(done, total)

    def _turns(self, round_number: int) -> Iterator[Turn]:
        """Yield the turns that are left; FedProx needs to see the weights that the round began with."""
        client, now = self.client, None
        if self._turn and self.run.settings.proximal:
            now = {name: part.snapshot() for name, part in client.parts.items()}
            for name, weights in nested(self.recipient.sent).items():
                client.parts[name].write(weights)
        for index, turn in enumerate(client.turns(round_number)):
            if now is not None:
                for name, weights in now.items():
                    client.parts[name].write(weights)
                now = None
            if index >= self._turn:
                yield turn

    def _run(self, turn: Turn, plane: DataPlane, replies: list[Message]) -> None:
        """Run one batch, on the replies in the journal as long as there are any."""
        try:
            request = next(turn)
            while True:
                if replies:
                    reply = replies.pop(0)
                    self.traffic.count_up(request)
                    self.traffic.count_down(reply)
                else:
                    point("client.batch.before_request")
                    with _Timed(self._waited, "server"):
                        reply = plane.request(request)
                    point("client.batch.after_reply")
                    self._place.write(plane.content)
                    point("client.batch.after_journal")
                request = turn.send(reply)
        except StopIteration:
            return

    def _send(self, task: Task, plane: DataPlane) -> None:
        """Send what the round made of the parts that others go on with."""
        point("client.update.before_send")
        self._refuse_infinite()
        assembly, parts = self.run.assembly, self.client.parts
        with _Timed(self._waited, "federated"):
            if assembly.shared:
                trained = {name: parts[name].snapshot() for name in assembly.shared}
                update = self.recipient.update(self.number, trained, len(self.client.samples))
                plane.up("update", update)
            if self.run.recipe.schedule == "relay":
                for name, part in parts.items():
                    plane.up(f"handovers/{name}", handover(part))
        point("client.update.after_send")

    def _refuse_infinite(self) -> None:
        progress = self.client.progress
        if progress.loss is not None and not bool(torch.isfinite(progress.loss)):
            raise TrainingError(
                f"expected a finite loss, got {float(progress.loss)} at client {self.number} in round {self.round}; "
                "lower the learning rate, clip gradients (clip=1.0), or look for NaN in the data"
            )

    def _conclude(self, start: float) -> dict[str, Any]:
        """Take the place after the round, and return the result: from here on it can be sent again and again."""
        progress = self.client.report()
        up, down, kinds = self.traffic.take()
        self._result = {
            "samples": progress.samples,
            "batches": progress.batches,
            "loss_sum": None if progress.loss is None else float(progress.loss),
            "bytes_up": up,
            "bytes_down": down,
            "bytes": kinds,
            "seconds": perf_counter() - start,
            "seconds_by": dict(self._waited),
        }
        self._over = True
        self._save()
        return self._result

    # --- the place ----------------------------------------------------------------------------------------------

    def _save(self) -> None:
        self._place.save(*self._state())

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors: dict[str, Tensor] = {}
        meta: dict[str, Any] = {
            "round": self.round, "turn": self._turn, "over": self._over, "result": self._result, "began": self._began,
            "aligned": self._aligned, "waited": self._waited, "parts": {}, "channel": {},
        }  # fmt: skip
        for name, part in self.client.parts.items():
            held, meta["parts"][name] = part.state()
            tensors |= {f"part/{name}/{k}": t for k, t in held.items()}
        more, meta["recipient"] = self.recipient.state()
        tensors |= {f"recipient/{k}": t for k, t in more.items()}
        if self.run.settings.proximal:
            tensors |= {f"sent/{k}": t for k, t in self.recipient.sent.items()}
        for key, value in self.run.assembly.channel.state_dict().items():
            if isinstance(value, Tensor):
                tensors[f"channel/{key}"] = value
            else:
                meta["channel"][key] = value
        progress = self.client.progress
        meta["progress"] = {"samples": progress.samples, "batches": progress.batches}
        if progress.loss is not None:
            tensors["loss"] = progress.loss
        meta["traffic"] = {"up": self.traffic.up, "down": self.traffic.down, "kinds": dict(self.traffic.kinds)}
        return tensors, meta

    def _restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        self.round, self._turn, self._over = meta["round"], meta["turn"], meta["over"]
        self._result, self._began, self._aligned = meta["result"], meta["began"], meta["aligned"]
        self._waited = dict(meta["waited"])
        for name, part in self.client.parts.items():
            part.load_state(under(f"part/{name}/", tensors), meta["parts"][name])
        self.recipient.load_state(under("recipient/", tensors), meta["recipient"])
        if not self.recipient.sent and self.recipient.round is not None:
            self.recipient.hold(under("sent/", tensors), self.recipient.round)
        self.run.assembly.channel.load_state_dict({**under("channel/", tensors), **meta["channel"]})
        progress = self.client.progress
        progress.samples, progress.batches = meta["progress"]["samples"], meta["progress"]["batches"]
        progress.loss = tensors.get("loss")
        traffic = meta["traffic"]
        self.traffic.up, self.traffic.down = traffic["up"], traffic["down"]
        self.traffic.kinds.update(traffic["kinds"])


class _Timed:
    """Adds the seconds inside to ``totals[what]``."""

    def __init__(self, totals: dict[str, float], what: str) -> None:
        self._totals, self._what = totals, what

    def __enter__(self) -> None:
        self._start = perf_counter()

    def __exit__(self, *_: object) -> None:
        self._totals[self._what] += perf_counter() - self._start


def _given(message: Message | None) -> Message:
    if message is None:
        raise ServiceError("expected weights from the federated server, and none came; see that it has this version")
    return message
