"""Evaluation: the sums that every rate is made of, so that no average of averages arises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cutlayer import step
from cutlayer.data import Samples


@dataclass(frozen=True)
class Score:
    """Sums over predictions: their number, the correct ones and the loss; and the confusion (true × predicted)."""

    count: int = 0
    correct: int = 0
    loss: float = 0.0
    confusion: Tensor | None = None

    def __add__(self, other: Score) -> Score:
        """Law: the score of the union of two sets of samples is the sum of their scores."""
        both = [c for c in (self.confusion, other.confusion) if c is not None]
        return Score(
            self.count + other.count,
            self.correct + other.correct,
            self.loss + other.loss,
            sum(both[1:], both[0]) if both else None,
        )

    @property
    def accuracy(self) -> float | None:
        """Share of correct predictions; None without any."""
        return self.correct / self.count if self.count else None

    @property
    def mean_loss(self) -> float | None:
        """Mean loss; None without predictions."""
        return self.loss / self.count if self.count else None


def evaluate(
    parts: Sequence[nn.Module],
    samples: Samples,
    loss: step.Loss,
    classes: int,
    *,
    batch_size: int = 512,
    device: torch.device | None = None,
    prepare: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None = None,
    autocast: torch.dtype | None = None,
) -> Score:
    """Return the score of the model that ``parts`` make, in evaluation mode; modes are left as found."""
    modes = [part.training for part in parts]
    score = Score()
    try:
        for part in parts:
            part.eval()
        with torch.no_grad():
            for start in range(0, len(samples), batch_size):
                inputs, targets = samples.take(torch.arange(start, min(start + batch_size, len(samples))))
                values: Any = prepare(inputs) if prepare else inputs
                if device is not None:
                    values = tuple(v.to(device) if isinstance(v, Tensor) else v for v in values)
                    targets = targets.to(device)
                with step.autocast_of(autocast, values):
                    for part in parts:
                        values = step.as_values(part(*values))
                    output = values[0] if len(values) == 1 else values
                    mean = loss(output, targets)
                score += _score(output, targets, mean, classes)
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.train(mode)
    return score


def _score(output: Any, targets: Tensor, mean: Tensor, classes: int) -> Score:
    actual = targets.flatten()
    counted = actual >= 0  # sequences mark positions that don't count with a negative label
    predicted, actual = step.logits(output).argmax(-1).flatten()[counted], actual[counted]
    confusion = None
    if classes <= 1000:
        known = predicted < classes  # a model may have more outputs than there are classes
        pairs = actual[known] * classes + predicted[known]
        confusion = torch.bincount(pairs, minlength=classes**2).reshape(classes, classes).cpu()
    return Score(len(actual), int((predicted == actual).sum()), float(mean) * len(actual), confusion)
