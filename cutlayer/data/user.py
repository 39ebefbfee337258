"""Data from a user's own function."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cutlayer.data.arrays import array_dataset
from cutlayer.data.samples import Dataset
from cutlayer.errors import DataError
from cutlayer.targets import call_accepted, load_target


def user(target: str, **options: Any) -> Dataset:
    """Call "package.module:function" with ``options`` and return its Dataset.

    It may also return four arrays or tensors (train_x, train_y, test_x, test_y), which are treated like those of an npz
    file, except that floating inputs stay as they are.
    """
    result = call_accepted(load_target(target, "data"), f"data {target}", {}, options)
    if isinstance(result, Dataset):
        return result
    if isinstance(result, tuple | list) and len(result) == 4:
        train_x, train_y, test_x, test_y = (_array(target, value) for value in result)
        return array_dataset(target, (train_x, train_y), (test_x, test_y), normalize=train_x.dtype == np.uint8)
    raise DataError(
        f"data {target} must return a cutlayer Dataset or (train_x, train_y, test_x, test_y), and it returned a "
        f"{type(result).__name__}: change its last line"
    )


def _array(target: str, value: Any) -> NDArray[Any]:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    try:
        return np.asarray(value)
    except ValueError as error:
        raise DataError(f"data {target} must return arrays or tensors, and one of them is not ({error})") from error
