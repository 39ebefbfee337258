"""The split server: trains the backbone on what clients send, and keeps nothing that cannot be lost.

Requests (meta ``key`` = [client, round, epoch, batch], ``samples`` = b):

    train     h, y  -> loss, g_h      forward, backward and the step in one request: nothing is stored
    forward   h     -> z, forward id  the record {h, weight version, seed} is written before the answer
    backward  δ     -> g_h            δ is written before the gradient counts; recomputed unless the graph is at hand
    upload    h, y  -> (nothing)      the backbone steps on (h, y); FSL-SAGE also keeps the newest samples

A forward answered twice gives the same answer under the same id, and a batch counts once in the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cutlayer import step
from cutlayer.errors import TrainingError, WireError
from cutlayer.faults import point
from cutlayer.roles import buffers, crossing
from cutlayer.roles.alignment import Aligner
from cutlayer.roles.graphs import Graph, GraphCache
from cutlayer.roles.part import Part
from cutlayer.roles.schedule import SHARED
from cutlayer.roles.settings import Settings, part_seed
from cutlayer.roles.window import Window
from cutlayer.store import BatchKey, ForwardRecord, ForwardRecords
from cutlayer.transforms import Channel
from cutlayer.wire import Message

BACKBONE = "backbone"


class SplitServer:
    """Answers the requests of all clients.

    ``backbone`` is the one shared part; with ``server=per_client`` every client gets a copy of it, with an optimizer of
    its own, when it first asks.  ``window`` collects gradients where the recipe steps on many batches at once.
    """

    def __init__(
        self,
        backbone: Part,
        settings: Settings,
        channel: Channel,
        records: ForwardRecords,
        window: Window | None = None,
        aligner: Aligner | None = None,
        graphs: GraphCache | None = None,
        *,
        retain: bool = False,
    ) -> None:
        self.backbone = backbone
        self.copies: dict[int, Part] = {}
        self.settings = settings
        self.channel = channel
        self.records = records
        self.window = window
        self.aligner = aligner
        self.graphs = graphs if graphs is not None else GraphCache()
        self.retain = retain
        """Whether records stay after their backward, for whoever keeps a log of the steps."""
        self._versions: dict[int, int] = {}
        self._anchors: dict[int, list[Tensor]] = {}

    # --- requests -----------------------------------------------------------------------------------------------

    def handle(self, request: Message) -> Message:
        """Answer one request.  Raises WireError for a kind or key that is not of the protocol."""
        handlers = {"train": self._train, "forward": self._forward, "backward": self._backward, "upload": self._upload}
        if request.kind not in handlers:
            raise WireError(f"expected a request of kind {', '.join(handlers)}, got {request.kind!r}")
        return handlers[request.kind](request, key_of(request))

    def handle_together(self, requests: Sequence[Message]) -> list[Message]:
        """Answer one ``train`` request of every client at once, as the recipe groups them."""
        if self.settings.recipe.step == "joined":
            return self._train_joined(requests)
        return self._train_averaged(requests)

    def _train(self, request: Message, key: BatchKey) -> Message:
        part = self.part(key.client)
        if self.window is not None:
            return self._train_in_window(request, key, self.window)
        h, y = self.activations(request, key)
        loss, gradients, g = self._train_step(part, h, y, self._seed(key))
        self._apply(key.client, part, gradients)
        return self.answer(key, {"loss": loss}, "cut_gradients", "g", g if self._sends_gradients else ())

    def _train_in_window(self, request: Message, key: BatchKey, window: Window) -> Message:
        h, y = self.activations(request, key)
        loss, gradients, g, after = self._train_apart(self.backbone, h, y, self._seed(key))
        window.add(key, self.records.uuid(key), len(y), gradients, after)
        return self.answer(key, {"loss": loss}, "cut_gradients", "g", g if self._sends_gradients else ())

    def _train_apart(
        self, part: Part, h: step.Values, y: Tensor, seed: int
    ) -> tuple[Tensor, list[Tensor | None], list[Tensor | None], list[Tensor]]:
        """Return loss, gradients, cut gradients and the buffers that the batch leaves; ``part`` stays as it is."""
        before = part.buffers()
        loss, gradients, g = self._train_step(part, h, y, seed)
        after = part.buffers()
        step.restore(part.module, before)
        return loss, gradients, g, after

    def record_labelled(self, request: Message, key: BatchKey) -> ForwardRecord:
        """Write down what a ``train`` request sends, for `train_record` to answer; the first one that came counts."""
        h, y = self.activations(request, key)
        tensors, others = crossing.named("h", h)
        meta = {"values": others, "samples": len(y)}
        return self.records.put(key, self.version(key.client), self._seed(key), tensors, {"y": y}, meta)

    def train_record(self, part: Part, record: ForwardRecord) -> tuple[Message, list[Tensor | None], list[Tensor]]:
        """Return the answer to a labelled record, the gradients of ``part``, and the buffers that the batch leaves."""
        h = crossing.placed("h", {**record.inputs, **record.meta["values"]})
        loss, gradients, g, after = self._train_apart(part, h, record.labels["y"], record.seed)
        sent = g if self._sends_gradients else ()
        return self.answer(record.key, {"loss": loss}, "cut_gradients", "g", sent), gradients, after

    def _train_joined(self, requests: Sequence[Message]) -> list[Message]:
        """Parallel split learning: one step on all clients' batches, each client's own gradient back to it.

        The client's gradient is that of *its* mean loss, so that its learning rate does not depend on who else came.
        """
        keys = [key_of(r) for r in requests]
        pairs = [self.activations(r, k) for r, k in zip(requests, keys, strict=True)]
        sizes = [len(y) for _, y in pairs]
        h, y = crossing.joined([h for h, _ in pairs]), torch.cat([y for _, y in pairs])
        loss, gradients, g = self._train_step(self.backbone, h, y, self._seed(keys[0]))
        self._apply(SHARED, self.backbone, gradients)
        answers = []
        for i, (key, size) in enumerate(zip(keys, sizes, strict=True)):
            start = sum(sizes[:i])
            own = [None if v is None else _rows(v, start, size, len(y)) for v in g]
            own = own if self._sends_gradients else []
            answers.append(self.answer(key, {"loss": loss}, "cut_gradients", "g", own))
        return answers

    def _train_averaged(self, requests: Sequence[Message]) -> list[Message]:
        """SGLR: every client gets the mean of all cut gradients, row by row over the clients that have the row."""
        keys = [key_of(r) for r in requests]
        losses, gradients_of = [], []
        for request, key in zip(requests, keys, strict=True):
            part = self.part(key.client)
            h, y = self.activations(request, key)
            loss, gradients, g = self._train_step(part, h, y, self._seed(key))
            self._apply(key.client, part, gradients)
            losses.append(loss)
            gradients_of.append(g)
        means = [_row_mean(column) for column in zip(*gradients_of, strict=True)]
        answers = []
        for key, loss, own in zip(keys, losses, gradients_of, strict=True):
            rows = [None if m is None or g is None else m[: len(g)] for m, g in zip(means, own, strict=True)]
            answers.append(self.answer(key, {"loss": loss}, "cut_gradients", "g", rows))
        return answers

    def _forward(self, request: Message, key: BatchKey) -> Message:
        tensors, others = crossing.named("h", self._values(request, key, "activations", "h"))
        meta = {"values": others, "samples": samples_of(request)}
        record = self.records.put(key, self.version(key.client), self._seed(key), tensors, meta=meta)
        point("split.forward.after_record")
        # from here on the record speaks: a forward that comes again gets the answer that it got the first time
        graph = self.run_record(self._pinned(self.part(key.client), key, record.version), record)
        self.graphs.put(record.uuid, graph)
        answer = {"forward": record.uuid, "version": record.version}
        return self.answer(key, {}, "activations", "z", step.detached(graph.done.outputs), **answer)

    def _backward(self, request: Message, key: BatchKey) -> Message:
        forward = str(request.meta.get("forward"))
        graph = self.graphs.take(forward, self.version(key.client))
        record = self.records.get(forward) if graph is None else graph.record
        if record.key != key:
            raise WireError(f"expected the forward id of batch {key.text}, got that of batch {record.key.text}")
        δ = self._values(request, key, "output_gradients", "d")
        if self.window is not None and not self.records.put_delta(record, crossing.named("d", δ)[0]):
            δ = crossing.placed("d", self.records.get_delta(record)[0])  # the first one that came counts
        part = now = self.part(key.client)
        if graph is None:
            part = self._pinned(now, key, record.version)
            graph = self.run_record(part, record)
        gradients, g = step.pull(part.module, graph.done, δ, part.weights)
        if self.window is not None:
            after = graph.after
            if part is not now:
                after = buffers.rebase(now.module, part.buffers(), after, now.buffers())
            self.window.add(key, record.uuid, record.meta["samples"], gradients, after, version=record.version)
        else:
            if graph.after:
                step.restore(part.module, graph.after)
            self._apply(key.client, part, gradients)
            if not self.retain:
                self.records.delete(record.uuid)
        return self.answer(key, {}, "cut_gradients", "g", g if self._sends_gradients else ())

    def run_record(self, part: Part, record: ForwardRecord) -> Graph:
        """Run the backbone on a record; its buffers stay those of the version, what the batch leaves is kept apart."""
        h = crossing.placed("h", {**record.inputs, **record.meta["values"]})
        if not part.has_buffers:
            return Graph(record, step.run(part.module, h, record.seed, autocast=self.settings.autocast), [])
        return Graph(record, *step.run_apart(part.module, h, record.seed, autocast=self.settings.autocast))

    def _pinned(self, part: Part, key: BatchKey, version: int) -> Part:
        """Return the backbone as it was at ``version``, which may have moved on since the forward."""
        if version == self.version(key.client):
            return part
        if self.window is None:
            raise TrainingError(
                f"expected what belongs to batch {key.text} before the backbone stepped from version {version} to "
                f"{self.version(key.client)}; clients that overlap need a recipe with step=window"
            )
        return self.window.pinned(version, part)

    def _upload(self, request: Message, key: BatchKey) -> Message:
        h, y = self.activations(request, key)
        part = self.part(key.client)
        done = step.run(part.module, h, self._seed(key), autocast=self.settings.autocast, differentiable=False)
        with step.autocast_of(self.settings.autocast, h):
            loss = self.settings.loss(done.outputs[0] if len(done.outputs) == 1 else done.outputs, y)
        gradients, _ = step.pull_loss(part.module, done.inputs, loss, part.weights)
        self._apply(key.client, part, gradients)
        if self.aligner is not None:
            self.aligner.keep(key.client, h, y)
        return Message("upload", {}, {})

    # --- weights ------------------------------------------------------------------------------------------------

    def part(self, client: int) -> Part:
        """Return the backbone that serves ``client``."""
        if self.settings.recipe.server != "per_client":
            return self.backbone
        if client not in self.copies:
            self.copies[client] = self.backbone.copy()
        return self.copies[client]

    def version(self, client: int) -> int:
        """Return the version of the backbone that serves ``client``: it grows by one a step."""
        return self._versions.get(self._copy(client), 0)

    def update(self, expected: Mapping[BatchKey, str] | None = None, *, keep: bool = False) -> bool:
        """Step the backbone on what the window holds, and publish it; returns whether there was anything to step on.

        ``expected`` are the batches that count, with the uuids of their forwards; None: all that came.  ``keep`` leaves
        what the old version needed where it is.
        """
        if self.window is None:
            return False
        mean, part = self.window.mean(expected), self.backbone
        if mean is None:
            return False
        step.restore(part.module, buffers.fold(part.module, part.buffers(), mean.buffers))
        self._apply(SHARED, part, mean.gradients)
        if keep:
            self.window.publish(part, mean.members)
        else:
            self.window.close(part, mean.members)
        return True

    def begin_round(self, number: int) -> None:
        """Put the schedules of all backbones, and of the auxiliaries kept here, at round ``number``."""
        auxiliaries = self.aligner.auxiliaries.values() if self.aligner is not None else ()
        for part in [self.backbone, *self.copies.values(), *auxiliaries]:
            part.begin_round(number)
        self._anchors = {}

    def anchor(self, copy: int) -> None:
        """Take a copy's weights as those of the round's start, to which FedProx draws it."""
        if self.settings.proximal and copy != SHARED:
            self._anchors[copy] = [w.detach().clone() for w in self.part(copy).weights]

    def versions(self) -> dict[int, int]:
        """Return the version of every copy (``SHARED`` or a client)."""
        return dict(self._versions)

    def load_versions(self, versions: Mapping[int, int]) -> None:
        """Put back what :meth:`versions` returned."""
        self._versions = dict(versions)

    # --- inside -------------------------------------------------------------------------------------------------

    @property
    def _sends_gradients(self) -> bool:
        return self.settings.recipe.feedback != "none"

    def _copy(self, client: int) -> int:
        return client if self.settings.recipe.server == "per_client" else SHARED

    def _seed(self, key: BatchKey) -> int:
        return part_seed(self.settings.batch_seed(key), BACKBONE)

    def _train_step(
        self, part: Part, h: step.Values, y: Tensor, seed: int
    ) -> tuple[Tensor, list[Tensor | None], list[Tensor | None]]:
        return step.train(
            part.module, h, y, self.settings.loss, seed, autocast=self.settings.autocast, weights=part.weights
        )

    def _apply(self, client: int, part: Part, gradients: Sequence[Tensor | None]) -> None:
        copy = self._copy(client)
        if self.settings.proximal and copy != SHARED and BACKBONE in self.settings.recipe.averaged:
            # FedProx, as at the client: a copy that will be averaged is drawn to the weights of the round's start
            if copy not in self._anchors:
                self.anchor(copy)
            anchors = self._anchors[copy]
            gradients = [
                g if g is None else g + self.settings.proximal * (w.detach() - a)
                for g, w, a in zip(gradients, part.weights, anchors, strict=True)
            ]
        part.apply(gradients)
        self._versions[copy] = self._versions.get(copy, 0) + 1

    def _values(self, request: Message, key: BatchKey, content: str, prefix: str) -> step.Values:
        others = request.meta.get("values", {})
        seed = self.settings.batch_seed(key)
        return crossing.unpack(prefix, request.tensors, others, self.channel, content, key, seed)

    def activations(self, request: Message, key: BatchKey) -> tuple[step.Values, Tensor]:
        """Return what a request sends over the cut, decoded, and its labels."""
        if "y" not in request.tensors:
            raise WireError(f"expected labels 'y' in a {request.kind!r} request, got {', '.join(request.tensors)}")
        return self._values(request, key, "activations", "h"), request.tensors["y"]

    def answer(
        self, key: BatchKey, extra: dict[str, Tensor], content: str, prefix: str, values: Sequence[Any], **meta: Any
    ) -> Message:
        """Return the answer that sends ``values`` down, with the tensors ``extra``."""
        tensors, others = crossing.pack(prefix, values, self.channel, content, key, self.settings.batch_seed(key))
        if others:
            meta["values"] = others
        return Message("answer", {**tensors, **extra}, meta)


def key_of(request: Message) -> BatchKey:
    """Return the batch that a request is about.  Raises WireError where it names none."""
    key = request.meta.get("key")
    if not (isinstance(key, list) and len(key) == 4 and all(type(k) is int and k >= 0 for k in key)):
        raise WireError(f"expected a batch key [client, round, epoch, batch] in the request, got {key!r}")
    return BatchKey(*key)


def samples_of(request: Message) -> int:
    """Return how many samples a request says that it has.  Raises WireError where it does not."""
    samples = request.meta.get("samples")
    if type(samples) is not int or samples < 1:
        raise WireError(f"expected the number of samples in a {request.kind!r} request, got {samples!r}")
    return samples


def _rows(gradient: Tensor, start: int, size: int, total: int) -> Tensor:
    return gradient if size == total else gradient[start : start + size] * (total / size)


def _row_mean(column: tuple[Tensor | None, ...]) -> Tensor | None:
    present = sorted((g for g in column if g is not None), key=len, reverse=True)
    if not present:
        return None
    if len(present) == 1:
        return present[0]
    total = present[0].clone()
    counts = torch.ones(len(total), *[1] * (total.ndim - 1), device=total.device, dtype=total.dtype)
    for gradient in present[1:]:
        total[: len(gradient)] += gradient
        counts[: len(gradient)] += 1
    return total / counts
