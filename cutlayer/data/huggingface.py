"""Hugging Face data sets (extra hf): a folder written by save_to_disk, or a name to load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutlayer.data.arrays import array_dataset, split_test
from cutlayer.data.samples import Dataset
from cutlayer.errors import DataError, MissingExtra


def hf(
    path: str,
    *,
    config: str | None = None,
    inputs: str | Sequence[str] | None = None,
    label: str | None = None,
    group: str | None = None,
    train: str = "train",
    test: str = "test",
    test_fraction: float = 0.2,
    seed: int = 0,
    train_limit: int | None = None,
    test_limit: int | None = None,
    normalize: bool = True,
) -> Dataset:
    """Return the data of ``path``: a folder that save_to_disk wrote, or a name (and ``config``) for load_dataset.

    ``inputs`` is a column of images or lists of numbers, or several columns of numbers put side by side; without it the
    first image column, or all numeric columns.  ``label`` is the class column; without it the first of type ClassLabel,
    or "label".  ``group`` is the column of natural clients.  Where there is no split called ``test``, ``test_fraction``
    of every label (of every group) is set aside.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("data hf needs the package datasets: install cutlayer[hf]") from error
    splits = _open(datasets, path, config)
    if train not in splits:
        raise DataError(f"data hf needs a split {train!r} in {path}, and there are {', '.join(splits)}: set data.train")
    features = splits[train].features
    label = label or next((c for c, f in features.items() if isinstance(f, datasets.ClassLabel)), "label")
    if inputs is None:
        images = [c for c, f in features.items() if isinstance(f, datasets.Image)]
        inputs = images[:1] or [
            c
            for c, f in features.items()
            if c not in (label, group)
            and isinstance(f, datasets.Value)
            and f.dtype.startswith(("int", "float", "uint"))
        ]
    columns = [inputs] if isinstance(inputs, str) else list(inputs)
    if not columns or any(c not in features for c in (*columns, label, *([group] if group else []))):
        raise DataError(
            f"data hf needs columns for inputs ({', '.join(columns) or 'none found'}), label ({label}) and group in "
            f"{path}, and it has {', '.join(features)}: set data.inputs and data.label"
        )
    names = tuple(features[label].names) if isinstance(features[label], datasets.ClassLabel) else None
    x, y, clients = _arrays(splits[train], columns, label, group)
    if test in splits:
        test_x, test_y, test_clients = _arrays(splits[test], columns, label, group)
    else:
        rest, part = split_test("hf", y, clients, test_fraction, seed)
        test_x, test_y, test_clients = x[part], y[part], None if clients is None else clients[part]
        x, y, clients = x[rest], y[rest], None if clients is None else clients[rest]
    return array_dataset(
        "hf",
        (x, y),
        (test_x, test_y),
        train_groups=clients,
        test_groups=test_clients,
        class_names=names,
        train_limit=train_limit,
        test_limit=test_limit,
        normalize=normalize,
        layout="hwc" if any(isinstance(features[c], datasets.Image) for c in columns) else "auto",
        note=f"Hugging Face data set {Path(path).name}",
    )


def _open(datasets: Any, path: str, config: str | None) -> dict[str, Any]:
    try:
        if Path(path).is_dir() and any((Path(path) / mark).exists() for mark in ("dataset_dict.json", "state.json")):
            opened = datasets.load_from_disk(path)
        else:
            opened = datasets.load_dataset(path, config)
    except Exception as error:  # datasets raises many kinds: missing, offline, damaged, unknown builder
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"data hf needs a folder that save_to_disk wrote or the name of a data set, and {path!r} cannot be opened "
            f"({reason}): check data.path"
        ) from error
    return dict(opened) if isinstance(opened, dict) else {"train": opened}


def _arrays(split: Any, columns: list[str], label: str, group: str | None) -> tuple[Any, Any, Any]:
    """Return (inputs, labels, groups or None) of one split as arrays."""
    parts = [_column(split, column) for column in columns]
    inputs = parts[0] if len(parts) == 1 else np.stack(parts, axis=1)
    if inputs.ndim == 1:
        inputs = inputs[:, None]
    return inputs, np.asarray(split[label][:]), None if group is None else np.asarray(split[group][:])


def _column(split: Any, column: str) -> NDArray[Any]:
    values = [np.asarray(value) for value in split[column]]
    shapes = {value.shape for value in values}
    if len(shapes) > 1:
        raise DataError(
            f"data hf needs inputs of one shape in column {column}, and there are {sorted(shapes)[:3]}: resize or "
            "pad them"
        )
    return np.stack(values) if values else np.empty((0,))
