"""FSL-SAGE's server side: keeps what clients upload and aligns their auxiliary models (arXiv 2505.23182).

An auxiliary a_i estimates the cut gradient of the backbone.  Aligning fits it to G = ∂L(f_s(H), Y)/∂H over the newest
samples (H, Y) of the client.  Both gradients are brought to a per-sample scale before they are compared, G times the
size of the buffer and the estimate times that of the mini-batch, so that the target is the same whatever the size of
the mini-batch:

    W_a ← step on  1/b · Σ over the mini-batch of ‖ b ∂_H mean-L(a(H), Y) − |buffer| G ‖²     (double backward)

The backbone only gives gradients here: its weights and buffers are left as found.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cutlayer import step, streams
from cutlayer.data import batches
from cutlayer.errors import TrainingError
from cutlayer.roles import crossing
from cutlayer.roles.part import Part
from cutlayer.roles.settings import Settings, part_seed

CHUNK = 256
"""Samples in one pass of the backbone over the buffer."""


class Aligner:
    """Holds the newest uploads of every client, and its auxiliary with the optimizer that aligns it."""

    def __init__(self, auxiliary: Part, settings: Settings) -> None:
        self.settings = settings
        self.auxiliaries: dict[int, Part] = {}
        self.kept: dict[int, tuple[list[Tensor], Tensor]] = {}
        self._first = auxiliary

    def keep(self, client: int, h: step.Values, y: Tensor) -> None:
        """Append an upload of ``client``; only the newest ``recipe.buffer`` samples stay."""
        if not all(isinstance(v, Tensor) and v.ndim and len(v) == crossing.rows(h) for v in h):
            raise TrainingError(
                "FSL-SAGE keeps sample by sample, so every value at the cut must have a row a sample, and one has not; "
                "choose another cut or recipe"
            )
        old_h, old_y = self.kept.get(client, ([v[:0] for v in h], y[:0]))
        newest = self.settings.recipe.buffer
        self.kept[client] = (
            [torch.cat([old, new])[-newest:] for old, new in zip(old_h, h, strict=True)],
            torch.cat([old_y, y])[-newest:],
        )

    def auxiliary(self, client: int) -> Part:
        """Return the auxiliary of ``client``, which lives on over the rounds."""
        if client not in self.auxiliaries:
            self.auxiliaries[client] = self._first.copy()
        return self.auxiliaries[client]

    def align(self, client: int, backbone: nn.Module, round_number: int) -> Mapping[str, Tensor] | None:
        """Align the auxiliary of ``client`` with ``backbone`` and return its weights; None if nothing was uploaded."""
        if client not in self.kept:
            return None
        part, recipe = self.auxiliary(client), self.settings.recipe
        h, y = self.kept[client]
        seed = streams.derive(self.settings.seed, "align", round_number, client)
        target = self.target(backbone, h, y, seed)
        for epoch in range(recipe.align_epochs):
            for rows in batches(len(y), recipe.align_batch, streams.derive(seed, "order", epoch)):
                self._step(part, [v[rows] for v in h], y[rows], [t if t is None else t[rows] for t in target], seed)
        return part.snapshot()

    def target(self, backbone: nn.Module, h: list[Tensor], y: Tensor, seed: int) -> list[Tensor | None]:
        """Return the per-sample gradients ∂L/∂h of every kept sample, |buffer| · G, a chunk at a time."""
        found = step.snapshot(backbone)
        chunks = []
        for rows in batches(len(y), CHUNK, None):
            _, _, g = step.train(
                backbone, [v[rows] for v in h], y[rows], self.settings.loss, part_seed(seed, "backbone"),
                autocast=self.settings.autocast,
            )  # fmt: skip
            chunks.append([None if v is None else v * len(rows) for v in g])
        step.restore(backbone, found)
        return [None if column[0] is None else torch.cat(column) for column in zip(*chunks, strict=True)]

    def _step(self, part: Part, h: list[Tensor], y: Tensor, target: list[Tensor | None], seed: int) -> None:
        done = step.run(part.module, h, part_seed(seed, "auxiliary"), autocast=self.settings.autocast)
        with step.autocast_of(self.settings.autocast, h):
            loss = self.settings.loss(done.outputs[0] if len(done.outputs) == 1 else done.outputs, y)
        starts = [(v, t) for v, t in zip(done.inputs, target, strict=True) if t is not None]
        estimates = torch.autograd.grad(loss * len(y), [v for v, _ in starts], create_graph=True, allow_unused=True)
        pairs = [(_wide(e), _wide(t)) for e, (_, t) in zip(estimates, starts, strict=True) if e is not None]
        gap = sum([((e - t) ** 2).sum() for e, t in pairs], torch.zeros((), device=y.device))
        rounding = 16 * max((torch.finfo(t.dtype).eps for _, t in starts), default=0.0)
        # Adam would make steps of full length out of what is only rounding, and lose an auxiliary that is exact
        if gap.requires_grad and float(gap.detach()) > rounding**2 * sum(float((t**2).sum()) for _, t in pairs):
            part.apply(torch.autograd.grad(gap / len(y), part.weights, allow_unused=True))


def _wide(gradient: Tensor) -> Tensor:
    return gradient.to(torch.promote_types(gradient.dtype, torch.float32))
