"""Data sets from arrays: what npz files, Hugging Face data and user functions have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutlayer.data.apportion import stratified
from cutlayer.data.images import as_images, first, image_dataset
from cutlayer.data.samples import Dataset, TensorSamples
from cutlayer.errors import DataError

MOST_CLASSES = 1_000_000
"""A label above is no class number: an identifier, or infinity."""


@dataclass(frozen=True)
class Labels:
    """Class numbers of raw labels, and the names of the classes and groups they stand for."""

    numbers: Tensor
    names: tuple[str, ...]


def number(values: NDArray[Any]) -> Labels:
    """Number the distinct ``values`` from 0 in sorted order: int64 (n,), with their texts as names."""
    distinct, inverse = np.unique(values, return_inverse=True)
    return Labels(torch.from_numpy(inverse.reshape(-1).astype(np.int64)), tuple(str(v) for v in distinct))


def class_numbers(name: str, train: NDArray[Any], test: NDArray[Any]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Return (training labels, test labels, class names): int64 class numbers from labels of any kind.

    Whole numbers from 0 on stay what they are; everything else is numbered in sorted order of the training labels.
    """
    for part, labels in (("training", train), ("test", test)):
        if labels.ndim != 1 or labels.dtype.kind == "O":
            raise DataError(
                f"data {name} needs one plain label per sample, and the {part} labels have shape {labels.shape} and "
                f"type {labels.dtype}: give class numbers"
            )
        if labels.dtype.kind == "f" and not np.array_equal(labels, np.round(labels)):
            raise DataError(f"data {name} needs class labels, and its {part} labels are not whole: number the classes")
    if len(train) == 0:
        raise DataError(f"data {name} needs at least one training sample, and has none: check its files")
    for part, labels in (("training", train), ("test", test)):
        if labels.dtype.kind in "iuf" and len(labels) and not abs(float(labels.max())) < MOST_CLASSES:
            raise DataError(
                f"data {name} needs class numbers below {MOST_CLASSES}, and its {part} labels go up to "
                f"{labels.max()}: number the classes from 0 on"
            )
    if train.dtype.kind in "iufb" and train.min() >= 0:
        names = tuple(map(str, range(int(train.max()) + 1)))
        return torch.from_numpy(train.astype(np.int64)), torch.from_numpy(test.astype(np.int64)), names
    distinct = np.unique(train)
    unknown = np.setdiff1d(test, distinct)
    if len(unknown):
        raise DataError(
            f"data {name} needs every test label in its training data too, and {unknown[0]!s} is only in the test set"
        )
    return (
        torch.from_numpy(np.searchsorted(distinct, train).astype(np.int64)),
        torch.from_numpy(np.searchsorted(distinct, test).astype(np.int64)),
        tuple(str(v) for v in distinct),
    )


def split_test(
    name: str, labels: NDArray[Any], groups: NDArray[Any] | None, fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (training index, test index): ``fraction`` of every label, of every group where there are groups."""
    code = number(labels).numbers
    if groups is not None:
        code = code + (int(code.max()) + 1 if len(code) else 1) * number(groups).numbers
    train, test = stratified(code, fraction, seed, "data", name, "test")
    return train.numpy(), test.numpy()


def array_dataset(
    name: str,
    train: tuple[NDArray[Any], NDArray[Any]],
    test: tuple[NDArray[Any], NDArray[Any]],
    *,
    train_groups: NDArray[Any] | None = None,
    test_groups: NDArray[Any] | None = None,
    class_names: tuple[str, ...] | None = None,
    train_limit: int | None = None,
    test_limit: int | None = None,
    normalize: bool = True,
    layout: str = "auto",
    note: str = "",
) -> Dataset:
    """Return the Dataset of (inputs, labels) arrays, samples first.

    uint8 inputs of 3 or 4 dimensions are images (``layout`` as in ``as_images``).  Floating inputs of 2 dimensions are
    normalised per feature, of 4 per channel, with mean and standard deviation of the training data; other shapes and
    whole numbers (token ids) stay as they are.
    """
    for part, (inputs, labels) in (("training", train), ("test", test)):
        if inputs.ndim == 0 or len(inputs) != len(labels):
            raise DataError(
                f"data {name} needs one label per sample, and the {part} part has inputs of shape {inputs.shape} and "
                f"labels of shape {labels.shape}: make their first dimensions equal"
            )
        if inputs.dtype.kind not in "iufb":
            raise DataError(
                f"data {name} needs numbers as inputs, and the {part} inputs are of type {inputs.dtype}: convert them"
            )
    if train[0].shape[1:] != test[0].shape[1:] or train[0].dtype.kind != test[0].dtype.kind:
        raise DataError(
            f"data {name} needs training and test inputs of one shape and kind, and there came {train[0].shape[1:]} "
            f"{train[0].dtype} and {test[0].shape[1:]} {test[0].dtype}: these arrays do not belong together"
        )
    train_y, test_y, names = class_numbers(name, train[1], test[1])
    group_names: tuple[str, ...] = ()
    groups, test_group_numbers = None, None
    if train_groups is not None:
        both = number(train_groups if test_groups is None else np.concatenate([train_groups, test_groups]))
        group_names, groups = both.names, both.numbers[: len(train_groups)]
        test_group_numbers = None if test_groups is None else both.numbers[len(train_groups) :]
    n, m = first(len(train_y), train_limit, "train_limit"), first(len(test_y), test_limit, "test_limit")
    if train[0].dtype == np.uint8 and train[0].ndim in (3, 4):
        return image_dataset(
            name,
            (as_images(train[0], layout), train_y),
            (as_images(test[0], layout), test_y),
            class_names or names,
            train_limit=train_limit,
            test_limit=test_limit,
            normalize=normalize,
            groups=groups,
            test_groups=test_group_numbers,
            group_names=group_names,
            note=note,
        )
    train_x, test_x = _tensor(train[0]), _tensor(test[0])
    if train_x.is_floating_point() and normalize and train_x.dim() in (2, 4):
        train_x, test_x = standardised(train_x, test_x)
    return Dataset(
        name=name,
        train=TensorSamples(train_x[:n], train_y[:n]),
        test=TensorSamples(test_x[:m], test_y[:m]),
        classes=len(class_names or names),
        class_names=class_names or names,
        input_shape=tuple(train_x.shape[1:]),
        groups=None if groups is None else groups[:n],
        test_groups=None if test_group_numbers is None else test_group_numbers[:m],
        group_names=group_names,
        note=note,
    )


def standardised(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Return both with mean 0 and standard deviation 1 over the training samples, per feature or channel (dim 1).

    A constant feature becomes 0.
    """
    over = [d for d in range(train.dim()) if d != 1]
    exact = train.double()
    mean = exact.mean(over, keepdim=True)
    deviation = exact.std(over, correction=0, keepdim=True)
    deviation = torch.where(deviation > 1e-9 * mean.abs().clamp(min=1e-9), deviation, 1)
    return ((exact - mean) / deviation).float(), ((test.double() - mean) / deviation).float()


def _tensor(array: NDArray[Any]) -> Tensor:
    measured = array.dtype.kind == "f" or (array.ndim == 2 and array.dtype == np.uint8)  # other whole numbers are ids
    return torch.from_numpy(array.astype(np.float32 if measured else np.int64))
