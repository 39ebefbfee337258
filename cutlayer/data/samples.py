"""Samples: what a client trains on, held in memory and read by index.

Everything that trains asks for nothing but ``Samples``, so other data (graphs, sequences) fits by giving the three
members of the protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from cutlayer.errors import DataError

IGNORED = -100
"""The label of positions in a sequence that don't count, as torch's cross-entropy has it."""


@runtime_checkable
class Samples(Protocol):
    """Samples with labels.  Law: ``take(index)`` gives exactly the samples ``index``, in that order.

    ``targets`` are the labels of all samples, int64 (n,), or (n, t) where every position of a sequence has one.  The
    inputs of a batch are the model's positional arguments: tensors as a rule, though anything the model accepts may be
    among them (a batch of graphs, say).
    """

    @property
    def targets(self) -> Tensor: ...

    def __len__(self) -> int: ...

    def take(self, index: Tensor) -> tuple[tuple[Any, ...], Tensor]: ...


def _same_length(what: str, inputs: tuple[Tensor, ...], targets: Tensor) -> None:
    for tensor in inputs:
        if tensor.dim() == 0 or len(tensor) != len(targets):
            raise DataError(
                f"{what} needs one label for each sample, and there came inputs of shape {tuple(tensor.shape)} with "
                f"{len(targets)} labels: make their first dimensions equal"
            )


class TensorSamples:
    """Samples in tensors: ``inputs`` is one tensor or a tuple of them, sample first; ``targets`` int64 (n,)."""

    def __init__(self, inputs: Tensor | tuple[Tensor, ...], targets: Tensor) -> None:
        self.inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        self.targets = targets.to(torch.int64)
        _same_length("TensorSamples", self.inputs, self.targets)

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, index: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return (inputs, targets) of the samples ``index`` (int64), in its order."""
        index = index.to(self.targets.device)
        return tuple(tensor.index_select(0, index) for tensor in self.inputs), self.targets.index_select(0, index)

    def to(self, device: torch.device | str) -> TensorSamples:
        """Return these samples on ``device``."""
        return TensorSamples(tuple(tensor.to(device) for tensor in self.inputs), self.targets.to(device))


class ImageSamples:
    """Images kept as uint8 (n, c, h, w) and turned into float32 as they are taken: pixel * scale + shift, per channel.

    A quarter of the memory of float32.  Converting a batch of 64 costs about 25 microseconds more at 3x32x32 (8 more at
    1x28x28) than reading float32, which is below a thousandth of a training step of the smallest convolution net.
    """

    def __init__(self, images: Tensor, targets: Tensor, scale: Tensor, shift: Tensor) -> None:
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise DataError(
                f"images must be uint8 of shape (n, channels, height, width), and there came {images.dtype} of shape "
                f"{tuple(images.shape)}: convert them, or use TensorSamples for values of another kind"
            )
        self.images = images
        self.targets = targets.to(torch.int64)
        self.scale = scale.reshape(-1, 1, 1)
        self.shift = shift.reshape(-1, 1, 1)
        _same_length("ImageSamples", (images,), self.targets)

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, index: Tensor) -> tuple[tuple[Tensor], Tensor]:
        """Return ((images,), targets) of the samples ``index`` (int64): images float32 (b, c, h, w)."""
        index = index.to(self.targets.device)
        images = self.images.index_select(0, index).to(torch.float32).mul_(self.scale).add_(self.shift)
        return (images,), self.targets.index_select(0, index)

    def to(self, device: torch.device | str) -> ImageSamples:
        """Return these samples on ``device``."""
        return ImageSamples(*(tensor.to(device) for tensor in (self.images, self.targets, self.scale, self.shift)))


class Subset:
    """Some samples of ``base``, without a copy.  Law: ``Subset(s, i).take(j)`` equals ``s.take(i[j])``."""

    def __init__(self, base: Samples, index: Tensor) -> None:
        self.base = base
        self.index = index.to(torch.int64)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def targets(self) -> Tensor:
        return self.base.targets[self.index.to(self.base.targets.device)]

    def take(self, index: Tensor) -> tuple[tuple[Any, ...], Tensor]:
        """Return (inputs, targets) of the samples ``index``, counted within the subset."""
        return self.base.take(self.index.index_select(0, index.to(self.index.device)))


@dataclass(frozen=True)
class Dataset:
    """A data set ready for training: its two sets of samples, and what a model and a partition must know of it.

    ``input_shape`` is that of one sample's first input, without the batch.  ``groups`` and ``test_groups`` (int64) name
    the natural client of every sample, as an index into ``group_names``.  ``note`` is a sentence for reports.
    """

    name: str
    train: Samples
    test: Samples
    classes: int
    class_names: tuple[str, ...]
    input_shape: tuple[int, ...]
    groups: Tensor | None = None
    test_groups: Tensor | None = None
    group_names: tuple[str, ...] = ()
    note: str = ""


def check(dataset: Dataset) -> Dataset:
    """Return ``dataset`` if it can be trained on; raise DataError with the first thing that is wrong."""
    name = dataset.name
    if dataset.classes < 2:
        raise DataError(
            f"data {name} needs at least 2 classes to learn, and it has {dataset.classes}: check its labels"
        )
    if len(dataset.class_names) != dataset.classes:
        raise DataError(
            f"data {name} says {dataset.classes} classes but names {len(dataset.class_names)}: name each class once"
        )
    for part, samples, groups in (
        ("training", dataset.train, dataset.groups),
        ("test", dataset.test, dataset.test_groups),
    ):
        targets = samples.targets
        if len(samples) == 0:
            raise DataError(f"data {name} needs at least one {part} sample, and has none: check its files and limits")
        if targets.shape[:1] != (len(samples),) or targets.dtype != torch.int64:
            raise DataError(
                f"data {name} needs one int64 label for each of its {len(samples)} {part} samples, and there came "
                f"{targets.dtype} of shape {tuple(targets.shape)}: give class numbers from 0 on"
            )
        real = targets[targets != IGNORED] if targets.dim() > 1 else targets
        low, high = (int(real.min()), int(real.max())) if real.numel() else (0, 0)
        if low < 0 or high >= dataset.classes:
            raise DataError(
                f"data {name} has {dataset.classes} classes, so labels must be 0 to {dataset.classes - 1}, and the "
                f"{part} labels run from {low} to {high}: renumber them or correct the number of classes"
            )
        if isinstance(samples, TensorSamples):
            for tensor in samples.inputs:
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    bad = int((~torch.isfinite(tensor)).flatten(1).any(1).sum()) if tensor.dim() > 1 else "some"
                    raise DataError(
                        f"data {name} must be finite, and {bad} of its {len(samples)} {part} samples hold NaN or "
                        "infinity: drop or impute them (source csv imputes missing values)"
                    )
        if groups is not None and (len(groups) != len(samples) or int(groups.min()) < 0):
            raise DataError(
                f"data {name} needs one group number from 0 on for each of its {len(samples)} {part} samples, and "
                f"there came {len(groups)}: give every sample its client"
            )
        if groups is not None and int(groups.max()) >= len(dataset.group_names):
            raise DataError(
                f"data {name} has a group number {int(groups.max())} but only {len(dataset.group_names)} group names: "
                "name every group"
            )
    return dataset
