"""What each cut costs, before anything is trained: parameters, FLOPs and bytes on each side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from cutlayer.cutting.inputs import batch_of, read_example
from cutlayer.cutting.model import Crossing, SplitModel
from cutlayer.cutting.part import as_tuple, detached
from cutlayer.cutting.program import mode, undisturbed
from cutlayer.cutting.split import split
from cutlayer.cutting.submodules import check_model
from cutlayer.errors import CutError


@dataclass(frozen=True)
class PartCost:
    """One part: its role, parameters, and floating-point operations of forward and backward per sample."""

    role: str
    parameters: int
    flops: float


@dataclass(frozen=True)
class CutCost:
    """What a cut puts on each side.  The client holds the encoder and, with two cuts, the head.

    FLOPs are those of torch's flop counter (matrix products and convolutions, a multiply-add counted as two) in train
    mode, forward and backward, divided by the example's batch size.

    Attributes:
        cuts: the submodules after which the model is cut.
        method: how it is cut ("fx", "children", "export"); None where it cannot be.
        parts: the parts in order; empty where it cannot be cut.
        crossings: what crosses each cut.
        reason: why the model cannot be cut there; None where it can.
    """

    cuts: tuple[str, ...]
    method: str | None
    parts: tuple[PartCost, ...]
    crossings: tuple[Crossing, ...]
    reason: str | None = None

    @property
    def possible(self) -> bool:
        """Whether the model can be cut there."""
        return self.reason is None

    @property
    def client_parameters(self) -> int:
        """Parameters at the client."""
        return sum(part.parameters for part in self.parts if part.role != "backbone")

    @property
    def parameters(self) -> int:
        """Parameters of the whole model."""
        return sum(part.parameters for part in self.parts)

    @property
    def client_flops(self) -> float:
        """FLOPs at the client per sample."""
        return sum(part.flops for part in self.parts if part.role != "backbone")

    @property
    def flops(self) -> float:
        """FLOPs of the whole model per sample."""
        return sum(part.flops for part in self.parts)

    @property
    def client_share(self) -> float:
        """Share of the FLOPs that the client does, from 0 to 1."""
        return self.client_flops / self.flops if self.flops else 0.0

    @property
    def bytes_up(self) -> float:
        """Raw bytes per sample from the client: activations at the first cut, output gradients at the second."""
        return self._bytes(forward=0, backward=1)

    @property
    def bytes_down(self) -> float:
        """Raw bytes per sample to the client: cut gradients at the first cut, outputs at the second."""
        return self._bytes(forward=1, backward=0)

    @property
    def passes_through(self) -> tuple[str, ...]:
        """Inputs of the model that cross unchanged."""
        return tuple(dict.fromkeys(c.name for c in self.crossings if c.passes_through))

    def _bytes(self, forward: int, backward: int) -> float:
        there = sum(c.bytes_per_sample for c in self._at(forward))
        return there + sum(c.bytes_per_sample for c in self._at(backward) if c.differentiable)

    def _at(self, index: int) -> list[Crossing]:
        return [c for c in self.crossings if index < len(self.cuts) and c.cut == self.cuts[index]]


def inspect_cut(model: nn.Module, at: str | Sequence[str], example: Any, *, method: str = "auto") -> CutCost:
    """Return what one cut (one or two points, see ``split``) costs; raise CutError where the model cannot be cut."""
    cut = split(model, at, example, method=method)
    _, leaves = read_example(model, example)
    flops = _flops(model, cut, leaves)
    parts = tuple(
        PartCost(role, sum(p.numel() for p in part.parameters()), count / max(batch_of(leaves), 1))
        for (role, part), count in zip(cut.parts.items(), flops, strict=True)
    )
    return CutCost(cut.cuts, cut.method, parts, cut.crossings)


def inspect_model(model: nn.Module, example: Any, at: Sequence[str] | None = None) -> list[CutCost]:
    """Return what every possible single cut costs, in the order of the model's submodules.

    Args:
        model: any module.
        example: one batch of inputs (see ``split``).
        at: submodules to try; by default the model's children and, inside stacks (``Sequential``, ``ModuleList`` and
            modules that hold one, and whatever holds most of the parameters), theirs.

    Returns:
        One row each; a row of a cut that is not possible has the reason instead.
    """
    check_model(model)
    rows = []
    for name in cut_points(model) if at is None else at:
        try:
            rows.append(inspect_cut(model, name, example))
        except CutError as error:
            rows.append(CutCost((name,), None, (), (), str(error)))
    return rows


def cut_points(model: nn.Module) -> list[str]:
    """Return the submodules after which a cut is worth a look: blocks and what stands beside them."""
    total = sum(p.numel() for p in model.parameters())

    def walk(module: nn.Module, prefix: str) -> Iterator[str]:
        for name, child in module.named_children():
            if not isinstance(child, nn.ModuleList | nn.ModuleDict):
                yield prefix + name
            if _opens(child, total):
                yield from walk(child, f"{prefix}{name}.")

    return list(walk(model, ""))


def _opens(module: nn.Module, total: int) -> bool:
    stack = nn.Sequential | nn.ModuleList | nn.ModuleDict
    holds = any(isinstance(child, nn.ModuleList | nn.ModuleDict) for child in module.children())
    most = 2 * sum(p.numel() for p in module.parameters()) > total
    return isinstance(module, stack) or holds or (most and any(True for _ in module.children()))


def _flops(model: nn.Module, cut: SplitModel, leaves: Sequence[Tensor]) -> list[int]:
    """Return forward and backward FLOPs of each part on one batch in train mode; the model is left as it was."""
    parts = list(cut.parts.values())
    counts = []
    flags = {module: module.training for part in parts for module in part.modules()}
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        with undisturbed(model), mode(model, True), torch.enable_grad():
            args, named = cut.inputs.call([t.detach().clone() for t in leaves])
            arrived: tuple[Any, ...] = ()
            for part in parts:
                part.train()
                with FlopCounterMode(display=False) as counter:
                    value = part(*arrived) if arrived else part(*args, **named)
                    _backward(value)
                counts.append(counter.get_total_flops())
                arrived = detached(as_tuple(value))
    finally:
        for module, flag in flags.items():
            module.training = flag
        for parameter, gradient in gradients:
            parameter.grad = gradient
    return counts


def _backward(value: Any) -> None:
    # autograd.grad would leave .grad alone, but the flop counter's module hooks do not work with it
    outputs = [v for v in pytree.tree_leaves(value) if isinstance(v, Tensor) and v.requires_grad]
    if outputs:
        torch.autograd.backward(outputs, [torch.ones_like(v) for v in outputs])
