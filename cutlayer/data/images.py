"""Data sets of images: from uint8 arrays to a Dataset with normalisation and limits."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutlayer.data.samples import Dataset, ImageSamples
from cutlayer.errors import DataError


def first(n: int, limit: int | None, key: str) -> int:
    """Return how many of ``n`` samples to keep: the first ``limit`` of them, or all.  Raises DataError."""
    if limit is None:
        return n
    if limit < 1:
        raise DataError(f"data.{key} must be at least 1, and {limit} came: leave it out to keep all samples")
    return min(n, limit)


def as_images(array: NDArray[np.uint8], layout: str = "auto") -> Tensor:
    """Return (n, c, h, w) uint8 from (n, h, w), (n, c, h, w) or (n, h, w, c).

    ``layout`` is chw, hwc, or auto: channels last if only the last dimension can be a number of channels (1, 3, 4).
    """
    if array.ndim == 3:
        array = array[:, None]
    elif layout == "hwc" or (layout == "auto" and array.shape[3] in (1, 3, 4) and array.shape[1] not in (1, 3, 4)):
        array = array.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.array(array, dtype=np.uint8, order="C"))


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return (mean, standard deviation) of each channel in pixel units, float32 (c,), exactly from the pixel counts."""
    count = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for some in torch.split(images, 1000):  # bincount copies to int64, eight times the memory
        for channel in range(images.shape[1]):
            count[channel] += torch.bincount(some[:, channel].flatten(), minlength=256)
    share = count.double() / count.sum(1, keepdim=True)
    pixel = torch.arange(256).double()
    mean = (share * pixel).sum(1)
    variance = (share * (pixel - mean[:, None]) ** 2).sum(1)
    return mean.float(), variance.sqrt().float()


def image_dataset(
    name: str,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    class_names: tuple[str, ...],
    *,
    train_limit: int | None = None,
    test_limit: int | None = None,
    normalize: bool = True,
    top: int = 255,
    groups: Tensor | None = None,
    test_groups: Tensor | None = None,
    group_names: tuple[str, ...] = (),
    note: str = "",
) -> Dataset:
    """Return the Dataset of (images, labels) pairs: images uint8 (n, c, h, w) with pixels 0..``top``.

    ``normalize`` gives every channel mean 0 and standard deviation 1 over the whole training set (whatever the limit);
    without it pixels become 0..1.  A limit keeps the first samples in the order of the files.
    """
    for part, (images, labels) in (("training", train), ("test", test)):
        if len(images) == 0 or len(labels) == 0:
            raise DataError(f"data {name} needs at least one {part} image, and has none: check its files")
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DataError(
            f"data {name} needs training and test images of one shape, and there came {tuple(train[0].shape[1:])} and "
            f"{tuple(test[0].shape[1:])}: these files do not belong together"
        )
    if normalize:
        mean, deviation = channel_statistics(train[0])
        scale = 1 / deviation.clamp(min=1e-3)
        shift = -mean * scale
    else:
        scale = torch.full((train[0].shape[1],), 1 / top)
        shift = torch.zeros_like(scale)
    n, m = first(len(train[0]), train_limit, "train_limit"), first(len(test[0]), test_limit, "test_limit")
    return Dataset(
        name=name,
        train=ImageSamples(train[0][:n], train[1][:n], scale, shift),
        test=ImageSamples(test[0][:m], test[1][:m], scale, shift),
        classes=len(class_names),
        class_names=class_names,
        input_shape=tuple(train[0].shape[1:]),
        groups=None if groups is None else groups[:n],
        test_groups=None if test_groups is None else test_groups[:m],
        group_names=group_names,
        note=note,
    )
