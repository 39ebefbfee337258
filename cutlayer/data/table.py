"""Tables with gaps: columns of text to inputs, with everything fitted on the training rows only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cutlayer.errors import DataError

MISSING = ("", "?", "NA", "N/A", "NaN", "nan")


def numeric(name: str, column: str, values: Sequence[str], missing: Sequence[str] = MISSING) -> NDArray[np.float64]:
    """Return a column of numbers with NaN where a value is missing."""
    numbers = np.empty(len(values))
    for row, text in enumerate(values):
        try:
            numbers[row] = np.nan if text in missing else float(text)
        except ValueError as error:
            raise DataError(
                f"data {name} needs numbers in column {column}, and row {row + 1} has {text!r}: name the column in "
                "data.categorical, or leave it out with data.drop"
            ) from error
        if np.isinf(numbers[row]):
            raise DataError(f"data {name} needs finite numbers, and row {row + 1} of column {column} has {text!r}")
    return numbers


def numeric_features(values: NDArray[np.float64], train: NDArray[np.int64], normalize: bool) -> NDArray[np.float64]:
    """Return (n, 1): gaps filled with the median of the training rows, then standardised by them."""
    known = values[train][~np.isnan(values[train])]
    filled = np.where(np.isnan(values), np.median(known) if len(known) else 0.0, values)
    if normalize:
        deviation = filled[train].std()
        filled = (filled - filled[train].mean()) / (deviation if deviation > 1e-12 else 1.0)
    return filled[:, None]


def categorical_features(
    values: Sequence[str], train: NDArray[np.int64], missing: Sequence[str] = MISSING
) -> NDArray[np.float64]:
    """Return (n, levels): one column for each value that a training row has; a gap or an unseen value is all zeros."""
    levels = sorted({values[row] for row in train} - set(missing))
    place = {level: i for i, level in enumerate(levels)}
    features = np.zeros((len(values), len(levels)))
    for row, text in enumerate(values):
        if text in place:
            features[row, place[text]] = 1.0
    return features
