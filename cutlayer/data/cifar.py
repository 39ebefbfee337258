"""CIFAR-10 and CIFAR-100 in their binary form: records of label bytes and 3072 pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cutlayer.data import files
from cutlayer.data.images import image_dataset
from cutlayer.data.samples import Dataset
from cutlayer.errors import DataError


def _records(name: str, root: Path, file_names: list[str], label_bytes: int) -> tuple[Tensor, Tensor]:
    """Return (images uint8 (n, 3, 32, 32), labels int64 (n,)); the label is the last of the label bytes."""
    record, rows = label_bytes + 3072, []
    for file_name in file_names:
        path = files.one_of(name, root, [file_name])
        raw = np.frombuffer(files.content(name, path), np.uint8)
        if len(raw) == 0 or len(raw) % record:
            raise DataError(
                f"data {name} needs {path} to be whole records of {record} bytes, and it has {len(raw)} bytes: it is "
                "truncated or of another form, use the binary version of the data"
            )
        rows.append(raw.reshape(-1, record))
    table = np.concatenate(rows)
    images = torch.from_numpy(table[:, label_bytes:].copy()).view(-1, 3, 32, 32)
    return images, torch.from_numpy(table[:, label_bytes - 1].astype(np.int64))


def _class_names(root: Path, file_name: str, classes: int) -> tuple[str, ...]:
    path = root / file_name
    lines = path.read_text().split() if path.is_file() else []
    return tuple(lines) if len(lines) == classes else tuple(map(str, range(classes)))


def cifar10(
    path: str, *, train_limit: int | None = None, test_limit: int | None = None, normalize: bool = True
) -> Dataset:
    """Return CIFAR-10 (Krizhevsky 2009) from data_batch_1.bin .. 5 and test_batch.bin: inputs (3, 32, 32).

    ``path`` is their folder, or the one above it (cifar-10-batches-bin).
    """
    root = files.folder("cifar10", path, ("cifar-10-batches-bin",))
    return image_dataset(
        "cifar10",
        _records("cifar10", root, [f"data_batch_{i}.bin" for i in range(1, 6)], 1),
        _records("cifar10", root, ["test_batch.bin"], 1),
        _class_names(root, "batches.meta.txt", 10),
        train_limit=train_limit,
        test_limit=test_limit,
        normalize=normalize,
    )


def cifar100(
    path: str, *, train_limit: int | None = None, test_limit: int | None = None, normalize: bool = True
) -> Dataset:
    """Return CIFAR-100 with its fine labels from train.bin and test.bin: inputs (3, 32, 32).

    ``path`` is their folder, or the one above it (cifar-100-binary).
    """
    root = files.folder("cifar100", path, ("cifar-100-binary",))
    return image_dataset(
        "cifar100",
        _records("cifar100", root, ["train.bin"], 2),
        _records("cifar100", root, ["test.bin"], 2),
        _class_names(root, "fine_label_names.txt", 100),
        train_limit=train_limit,
        test_limit=test_limit,
        normalize=normalize,
    )
