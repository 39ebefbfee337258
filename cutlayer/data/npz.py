"""Arrays in an npz file."""

from __future__ import annotations

import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cutlayer.data import files
from cutlayer.data.arrays import array_dataset, split_test
from cutlayer.data.samples import Dataset
from cutlayer.errors import DataError


def read_npz(name: str, path: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of an npz file; arrays of Python objects are refused, because reading them runs code."""
    found = files.file(name, path)
    try:
        with found.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise DataError(f"data {name} needs {found} to be an npz file, and it is one npy array: use np.savez")
            return {key: archive[key] for key in archive.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"data {name} needs {found} to be an npz file of plain numbers, and it cannot be read as one ({error}): "
            "write it again with np.savez, without object arrays"
        ) from error


def npz(
    path: str,
    *,
    test_fraction: float = 0.2,
    seed: int = 0,
    train_limit: int | None = None,
    test_limit: int | None = None,
    normalize: bool = True,
    layout: str = "auto",
    invert: bool = False,
) -> Dataset:
    """Return the data of an npz file with x_train, y_train, x_test, y_test, or with x, y and perhaps client.

    With x and y alone, ``test_fraction`` of every label (of every client) is set aside for testing.  ``client`` (n,),
    or client_train and client_test, are the natural groups.  ``invert`` turns uint8 images that are dark on light.
    """
    arrays = read_npz("npz", path)
    if {"x_train", "y_train", "x_test", "y_test"} <= set(arrays):
        train, test = (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])
        groups = arrays.get("client_train"), arrays.get("client_test")
    elif {"x", "y"} <= set(arrays):
        x, y, client = arrays["x"], arrays["y"], arrays.get("client")
        for key, array in (("y", y), ("client", client)):
            if array is not None and (array.ndim != 1 or len(array) != len(x)):
                raise DataError(
                    f"data npz needs one value of {key} for each of the {len(x)} samples of x, and {key} has shape "
                    f"{array.shape}: make their lengths equal"
                )
        rest, part = split_test("npz", y, client, test_fraction, seed)
        train, test = (x[rest], y[rest]), (x[part], y[part])
        groups = (None, None) if client is None else (client[rest], client[part])
    else:
        raise DataError(
            f"data npz needs arrays x_train, y_train, x_test, y_test, or x and y, in {path}, and there are "
            f"{', '.join(arrays) or 'none'}: rename them"
        )
    for key, labels, clients in (("client_train", train[1], groups[0]), ("client_test", test[1], groups[1])):
        if clients is not None and clients.shape != labels.shape:
            raise DataError(
                f"data npz needs {key} to have one value per label, and its shape is {clients.shape} for {labels.shape}"
            )
    if invert:
        if train[0].dtype != np.uint8:
            raise DataError(
                f"data npz can invert uint8 images only, and x is of type {train[0].dtype}: leave invert out"
            )
        train, test = (255 - train[0], train[1]), (255 - test[0], test[1])
    return array_dataset(
        "npz",
        train,
        test,
        train_groups=groups[0],
        test_groups=groups[1],
        train_limit=train_limit,
        test_limit=test_limit,
        normalize=normalize,
        layout=layout,
    )
