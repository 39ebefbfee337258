"""Images in idx files, the form of MNIST, Fashion-MNIST and their relatives, gzipped or not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutlayer.data import files
from cutlayer.data.images import as_images, image_dataset
from cutlayer.data.samples import Dataset
from cutlayer.errors import DataError

FASHION = "t-shirt/top,trouser,pullover,dress,coat,sandal,shirt,sneaker,bag,ankle boot"


def read_idx(name: str, path: Path) -> NDArray[np.uint8]:
    """Return the array of one idx file of bytes (magic 00 00 08 dims, big-endian sizes, then the values)."""
    raw = files.content(name, path)
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or raw[3] == 0 or len(raw) < 4 + 4 * raw[3]:
        raise DataError(
            f"data {name} needs {path} to be an idx file of bytes (it starts with 00 00 08), and it starts with "
            f"{raw[:4].hex(' ') or 'nothing'}: check that it is the published file"
        )
    dims = raw[3]
    shape = tuple(int.from_bytes(raw[4 + 4 * i : 8 + 4 * i]) for i in range(dims))
    expected, came = math.prod(shape), len(raw) - 4 - 4 * dims
    if expected != came:
        raise DataError(
            f"data {name} needs {path} to hold {expected} bytes for its shape {shape}, and it holds {came}: it is "
            "truncated or damaged, copy it again"
        )
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape)


def _part(name: str, root: Path, prefixes: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    def read(kind: str, dims: int) -> NDArray[np.uint8]:
        path = files.one_of(
            name, root, [f"{prefix}{kind}{end}" for prefix in prefixes for end in ("*ubyte", "*ubyte.gz")]
        )
        array = read_idx(name, path)
        if array.ndim != dims:
            raise DataError(
                f"data {name} needs {path} to have {dims} dimensions, and it has shape {array.shape}: {kind} came in "
                "the wrong file"
            )
        return array

    images, labels = read("images", 3), read("labels", 1)
    if len(images) != len(labels):
        raise DataError(
            f"data {name} needs a label for every image in {root}, and there are {len(images)} images and "
            f"{len(labels)} labels: these files do not belong together"
        )
    return as_images(images), torch.from_numpy(labels.astype(np.int64))


def idx(
    path: str,
    *,
    name: str = "idx",
    class_names: Sequence[str] | None = None,
    train_limit: int | None = None,
    test_limit: int | None = None,
    normalize: bool = True,
) -> Dataset:
    """Return the data of the four idx files in folder ``path``: train-images*, train-labels*, and t10k-* or test-*.

    Inputs (1, h, w).  Without ``class_names`` the classes are 0 to the highest training label.
    """
    root = files.folder(name, path, ("MNIST/raw", "FashionMNIST/raw", "raw"))
    train, test = _part(name, root, ("train-",)), _part(name, root, ("t10k-", "test-"))
    if len(train[1]) == 0:
        raise DataError(f"data {name} needs at least one training image in {root}, and has none: check its files")
    names = tuple(class_names) if class_names else tuple(map(str, range(int(train[1].max()) + 1)))
    return image_dataset(name, train, test, names, train_limit=train_limit, test_limit=test_limit, normalize=normalize)


def mnist(
    path: str, *, train_limit: int | None = None, test_limit: int | None = None, normalize: bool = True
) -> Dataset:
    """Return MNIST (LeCun et al.) from its four idx files in ``path``, or where torchvision puts them below it."""
    return idx(
        path,
        name="mnist",
        class_names=tuple(map(str, range(10))),
        train_limit=train_limit,
        test_limit=test_limit,
        normalize=normalize,
    )


def fashion_mnist(
    path: str, *, train_limit: int | None = None, test_limit: int | None = None, normalize: bool = True
) -> Dataset:
    """Return Fashion-MNIST (Xiao et al. 2017) from its four idx files in ``path``."""
    return idx(
        path,
        name="fashion_mnist",
        class_names=tuple(FASHION.split(",")),
        train_limit=train_limit,
        test_limit=test_limit,
        normalize=normalize,
    )
