"""What moves a client's encoder: one generator function for each value of the ``feedback`` axis.

Each takes a client and a batch, yields the requests to the split server and is sent the replies.  A recipe may name a
function of its own with this signature: ``feedback(client, batch) -> Generator[Message, Message, None]``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import Tensor

from cutlayer import step, streams
from cutlayer.recipes import Recipe
from cutlayer.roles.client import Client, Turn
from cutlayer.roles.settings import Batch, part_seed
from cutlayer.wire import Message

Learn = Callable[[Client, Batch], Turn]


def of(recipe: Recipe) -> Learn:
    """Return the function for the recipe's ``feedback`` and ``labels``."""
    if callable(recipe.feedback):
        return recipe.feedback
    if recipe.feedback in ("cut_gradient", "averaged_cut_gradient", "none"):
        return with_head if recipe.labels == "client" else with_server_labels
    return {"auxiliary": auxiliary_loss, "estimated": estimated_gradient, "whole_model": whole_model}[recipe.feedback]


def with_server_labels(client: Client, batch: Batch) -> Turn:
    """Vanilla: (h, y) goes up, the loss and the cut gradient come down, in one request."""
    done = client.encode(batch)
    reply = yield client.request("train", batch, step.detached(done.outputs), labels=True)
    if reply.meta.get("stale"):
        return  # it has counted at the server, whose answer was lost and is not at hand any more
    client.progress.add(reply.tensors["loss"], batch.size)
    if client.settings.recipe.feedback != "none":
        client.descend("encoder", done, client.received("cut_gradients", "g", reply, batch))


def with_head(client: Client, batch: Batch) -> Turn:
    """U-shape: h goes up, z comes down; the head steps on the loss; δ goes up, the cut gradient comes down."""
    done = client.encode(batch)
    reply = yield client.request("forward", batch, step.detached(done.outputs))
    z = client.received("activations", "z", reply, batch)
    head = client.run("head", z, batch)
    loss = _loss(client, head.outputs, batch)
    gradients, δ = _pull_loss(client, "head", head, loss)
    client.apply("head", gradients)
    client.progress.add(loss, batch.size)
    reply = yield client.request("backward", batch, δ, forward=reply.meta["forward"])
    if client.settings.recipe.feedback != "none":
        client.descend("encoder", done, client.received("cut_gradients", "g", reply, batch))


def auxiliary_loss(client: Client, batch: Batch) -> Turn:
    """CSE-FSL: encoder and auxiliary step on the auxiliary's loss; every q-th batch is uploaded (arXiv 2302.05599)."""
    done, gradients, ĝ = yield from _by_auxiliary(client, batch)
    client.apply("auxiliary", gradients)
    client.descend("encoder", done, ĝ)


def estimated_gradient(client: Client, batch: Batch) -> Turn:
    """FSL-SAGE: the auxiliary only estimates the cut gradient, and the server aligns it (arXiv 2505.23182)."""
    done, _, ĝ = yield from _by_auxiliary(client, batch)
    client.descend("encoder", done, ĝ)


def _by_auxiliary(
    client: Client, batch: Batch
) -> Generator[Message, Message, tuple[step.Pass, list[Tensor | None], list[Tensor | None]]]:
    """Upload every q-th batch; return the encoder's pass, and the auxiliary's gradients and cut gradient ĝ."""
    done = client.encode(batch)
    if client.local_step(batch) % client.settings.recipe.upload_every == 0:
        yield client.request("upload", batch, step.detached(done.outputs), labels=True)
    auxiliary = client.run("auxiliary", step.detached(done.outputs), batch)
    loss = _loss(client, auxiliary.outputs, batch)
    client.progress.add(loss, batch.size)
    return done, *_pull_loss(client, "auxiliary", auxiliary, loss)


def whole_model(client: Client, batch: Batch) -> Turn:
    """Ordinary training of all parts in one graph, each part on its own random stream."""
    values: Any = batch.inputs
    with step.autocast_of(client.settings.autocast, batch.inputs):
        for name in client.settings.parts:
            streams.start(part_seed(batch.seed, name))
            values = step.call(client.parts[name].module, values)
    loss = _loss(client, values, batch)
    weights = [w for name in client.settings.parts for w in client.parts[name].weights]
    gradients = iter(torch.autograd.grad(loss, weights, allow_unused=True))
    for name in client.settings.parts:
        client.apply(name, [next(gradients) for _ in client.parts[name].weights])
    client.progress.add(loss.detach(), batch.size)
    yield from ()


def _loss(client: Client, outputs: step.Values, batch: Batch) -> Tensor:
    with step.autocast_of(client.settings.autocast, outputs):
        return client.settings.loss(outputs[0] if len(outputs) == 1 else outputs, batch.targets)


def _pull_loss(
    client: Client, name: str, done: step.Pass, loss: Tensor
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    part = client.parts[name]
    return step.pull_loss(part.module, done.inputs, loss, part.weights)
