"""One set of buffers from those of many batches that all started from the same weights.

BatchNorm's running statistics r ← (1-m) r + m s are folded batch by batch in canonical order, as if the batches had
come one after another: s·m is read off each batch's result as b' - (1-m) b.  With ``momentum=None`` the statistics are
cumulative means.  Counters add up.  Any other buffer (the vectors of spectral norm) is taken from the last batch.
One batch gives exactly its own buffers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


def fold(module: nn.Module, start: Sequence[Tensor], after: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return the buffers of ``module``, in ``buffers()`` order, after all batches.

    ``start`` are the buffers that every batch started from, ``after[j]`` those that batch j left.
    """
    if len(after) == 1 or not start:
        return [b.clone() for b in after[0]]
    rates = _rates(module)
    folded = []
    for index, ((name, buffer), first) in enumerate(zip(module.named_buffers(), start, strict=True)):
        results = [batch[index] for batch in after]
        if name in rates and buffer.is_floating_point():
            folded.append(_running(first, results, rates[name], _count(module, name, start)))
        elif not buffer.is_floating_point():
            folded.append(first + sum((r - first for r in results), torch.zeros_like(first)))
        else:
            folded.append(results[-1].clone())
    return folded


def rebase(module: nn.Module, old: Sequence[Tensor], result: Sequence[Tensor], new: Sequence[Tensor]) -> list[Tensor]:
    """Return what a batch that made ``result`` out of the buffers ``old`` would have made out of ``new``.

    For a batch whose weights have been left by the time that it counts.
    """
    rates = _rates(module)
    moved = []
    for (name, buffer), before, after, start in zip(module.named_buffers(), old, result, new, strict=True):
        if name in rates and buffer.is_floating_point():
            momentum = rates[name]
            was = momentum if momentum is not None else 1 / (_count(module, name, old) + 1)
            now = momentum if momentum is not None else 1 / (_count(module, name, new) + 1)
            moved.append((1 - now) * start + now * _statistic(before, after, was))
        else:
            moved.append(after.clone() if buffer.is_floating_point() else start + after - before)
    return moved


def _rates(module: nn.Module) -> dict[str, float | None]:
    """Return the momentum of every running statistic in ``module``, by buffer name."""
    found: dict[str, float | None] = {}
    for prefix, child in module.named_modules():
        if isinstance(child, _NormBase) and child.track_running_stats:
            for name in ("running_mean", "running_var"):
                found[f"{prefix}.{name}" if prefix else name] = child.momentum
    return found


def _count(module: nn.Module, name: str, start: Sequence[Tensor]) -> int:
    """Return how many batches the statistic ``name`` had seen at the start."""
    counter = name.rpartition(".")[0] + ".num_batches_tracked" if "." in name else "num_batches_tracked"
    names = [n for n, _ in module.named_buffers()]
    return int(start[names.index(counter)]) if counter in names else 0


def _running(start: Tensor, results: Sequence[Tensor], momentum: float | None, count: int) -> Tensor:
    value = results[0].clone()
    for seen, result in enumerate(results[1:], count + 2):
        # every batch left (1-m₀) start + m₀ s, with m₀ the rate at the start; the fold gives it the rate of its turn
        rate = momentum if momentum is not None else 1 / (count + 1)
        turn = momentum if momentum is not None else 1 / seen
        value = (1 - turn) * value + turn * _statistic(start, result, rate)
    return value


def _statistic(start: Tensor, result: Tensor, rate: float) -> Tensor:
    """Return the batch's own statistic s, from result = (1 - rate) start + rate s."""
    return (result - (1 - rate) * start) / rate
