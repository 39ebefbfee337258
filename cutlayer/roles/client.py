"""The client: data, encoder and, by recipe, head, auxiliary or the whole model.

A client opens no connection.  Its work is a generator: it yields the messages that it wants sent to the split server
and is resumed with the replies, so that the same code runs in one process, over HTTP and over MPI.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cutlayer import step, streams
from cutlayer.data import Samples, batch_sizes, batches
from cutlayer.roles import crossing
from cutlayer.roles.part import Part
from cutlayer.roles.settings import Batch, Settings, part_seed
from cutlayer.store import BatchKey
from cutlayer.transforms import Channel
from cutlayer.wire import Message

Turn = Generator[Message, Message, None]
"""One batch of work: yields requests to the split server, is sent the replies."""

Augmentation = Callable[[tuple[Any, ...], torch.Generator], tuple[Any, ...]]


@dataclass
class Progress:
    """What a client did since it was last asked: samples, batches and the sum of losses over samples."""

    samples: int = 0
    batches: int = 0
    loss: Tensor | None = None

    def add(self, loss: Tensor, samples: int) -> None:
        """Count a batch with mean ``loss``."""
        self.samples += samples
        self.batches += 1
        term = loss.detach().float() * samples
        self.loss = term if self.loss is None else self.loss + term


class Client:
    """One client with its samples and its parts (``encoder``, ``head``, ``auxiliary`` or the whole model).

    ``learn`` is what it does with a batch: a function of :mod:`cutlayer.roles.feedback`, or the recipe's own.
    """

    def __init__(
        self,
        number: int,
        samples: Samples,
        parts: Mapping[str, Part],
        settings: Settings,
        channel: Channel,
        learn: Callable[[Client, Batch], Turn],
        augment: Augmentation | None = None,
    ) -> None:
        self.number = number
        self.samples = samples
        self.parts = dict(parts)
        self.settings = settings
        self.channel = channel
        self.progress = Progress()
        self._learn = learn
        self._augment = augment
        self._anchors: dict[str, list[Tensor]] = {}
        self._epoch_batches = 0

    def turns(self, round_number: int) -> Iterator[Turn]:
        """Yield the round's batches, each as a :data:`Turn` to be run to its end before the next is asked for."""
        self._anchor()
        for epoch in range(self.settings.local_epochs):
            order = batches(
                len(self.samples),
                self.settings.batch_size,
                streams.derive(self.settings.seed, "order", round_number, self.number, epoch),
            )
            self._epoch_batches = len(order)
            for index, rows in enumerate(order):
                yield self._learn(self, self.batch(BatchKey(self.number, round_number, epoch, index), rows))

    @property
    def sizes(self) -> list[int]:
        """The batch sizes of one local epoch."""
        return batch_sizes(len(self.samples), self.settings.batch_size)

    @property
    def turn_count(self) -> int:
        """How many batches a round has, over all its local epochs."""
        return len(self.sizes) * self.settings.local_epochs

    def batch(self, key: BatchKey, rows: Tensor) -> Batch:
        """Return the samples at ``rows`` as the batch called ``key``, augmented, on the run's device."""
        seed = self.settings.batch_seed(key)
        inputs, targets = self.samples.take(rows)
        if self._augment is not None:
            inputs = self._augment(inputs, streams.generator(seed, "augment"))
        device = self.settings.device
        if device.type != "cpu":
            inputs = tuple(v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for v in inputs)
            targets = targets.to(device, non_blocking=True)
        return Batch(key, seed, inputs, targets)

    def local_step(self, batch: Batch) -> int:
        """Return how many batches of the round came before ``batch``, over all its local epochs."""
        return batch.key.epoch * self._epoch_batches + batch.key.batch

    def run(self, name: str, inputs: Sequence[Any], batch: Batch, *, differentiable: bool = True) -> step.Pass:
        """Run one of the client's parts on ``inputs`` with its graph."""
        return step.run(
            self.parts[name].module,
            inputs,
            part_seed(batch.seed, name),
            autocast=self.settings.autocast,
            differentiable=differentiable,
        )

    def encode(self, batch: Batch) -> step.Pass:
        """Run the encoder: ``outputs`` are the smashed data h, with the graph that the cut gradient will need."""
        return self.run("encoder", batch.inputs, batch, differentiable=False)

    def request(self, kind: str, batch: Batch, values: Sequence[Any], *, labels: bool = False, **meta: Any) -> Message:
        """Return the message that sends ``values`` (smashed data, or output gradients) of ``batch`` upward."""
        content, prefix = ("output_gradients", "d") if kind == "backward" else ("activations", "h")
        tensors, others = crossing.pack(prefix, values, self.channel, content, batch.key, batch.seed)
        if labels:
            tensors["y"] = batch.targets
        if others:
            meta["values"] = others
        return Message(kind, tensors, {"key": list(batch.key), "samples": batch.size, **meta})

    def received(self, content: str, prefix: str, reply: Message, batch: Batch) -> step.Values:
        """Return the values in a reply: ``z`` (activations) or ``g`` (cut gradients)."""
        others = reply.meta.get("values", {})
        return crossing.unpack(prefix, reply.tensors, others, self.channel, content, batch.key, batch.seed)

    def descend(self, name: str, done: step.Pass, output_gradients: Sequence[Tensor | None]) -> None:
        """Pull gradients back through part ``name`` and step it."""
        part = self.parts[name]
        gradients, _ = step.pull(part.module, done, output_gradients, part.weights)
        self.apply(name, gradients)

    def apply(self, name: str, gradients: Sequence[Tensor | None]) -> None:
        """Step part ``name``; under FedProx with its term μ(w − w_round) (Li et al. 2020, arXiv 1812.06127)."""
        part = self.parts[name]
        anchors = self._anchors.get(name)
        if anchors is not None:
            gradients = [
                g if g is None else g + self.settings.proximal * (w.detach() - a)
                for g, w, a in zip(gradients, part.weights, anchors, strict=True)
            ]
        part.apply(gradients)

    def begin_round(self, number: int) -> None:
        """Put the schedules of the client's parts at round ``number``."""
        for part in self.parts.values():
            part.begin_round(number)

    def report(self) -> Progress:
        """Return the progress since the last report, and start anew."""
        done, self.progress = self.progress, Progress()
        return done

    def _anchor(self) -> None:
        if self.settings.proximal:
            averaged = self.settings.recipe.averaged
            self._anchors = {
                name: [w.detach().clone() for w in part.weights]
                for name, part in self.parts.items()
                if name in averaged
            }
