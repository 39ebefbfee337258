"""Tables in a CSV file: numbers, categories, gaps, a label column and perhaps a column that names the client."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cutlayer.data import files
from cutlayer.data.arrays import array_dataset, split_test
from cutlayer.data.samples import Dataset
from cutlayer.data.table import MISSING, categorical_features, numeric, numeric_features
from cutlayer.errors import DataError


def read_rows(name: str, path: Path, delimiter: str = ",") -> list[list[str]]:
    """Return the rows of a CSV file with outer blanks removed; empty lines are skipped, ragged rows refused."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = [[cell.strip() for cell in row] for row in csv.reader(stream, delimiter=delimiter) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"data {name} needs {path} to be CSV text in UTF-8, and it is not ({error})") from error
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise DataError(
                f"data {name} needs {len(rows[0])} values in every row of {path}, and row {number} has {len(row)}: "
                "check the file and data.delimiter"
            )
    return rows


def _is_header(row: Sequence[str], missing: Sequence[str]) -> bool:
    def number(text: str) -> bool:
        try:
            float(text)
        except ValueError:
            return False
        return True

    return not any(number(cell) or cell in missing for cell in row)


def csv_table(
    path: str,
    *,
    label: str | int | None = None,
    group: str | int | None = None,
    categorical: Sequence[str | int] = (),
    drop: Sequence[str | int] = (),
    header: bool | None = None,
    delimiter: str = ",",
    missing: Sequence[str] = MISSING,
    test_fraction: float = 0.2,
    seed: int = 0,
    train_limit: int | None = None,
    test_limit: int | None = None,
    normalize: bool = True,
) -> Dataset:
    """Return the data of a CSV file: inputs float32 (features,), classes the distinct values of the ``label`` column.

    Columns are named by the header or counted from 0; without ``label`` the last column is it.  ``header`` None looks:
    a first row without any number is one.  ``group`` is the column of natural clients.  Other columns are numbers,
    except those in ``categorical`` (one input per value) and in ``drop``.  ``test_fraction`` of every label (of every
    group) is set aside.  Gaps are filled with medians, and inputs standardised, by the training rows alone.
    """
    found = files.file("csv", path)
    rows = read_rows("csv", found, delimiter)
    if rows and (_is_header(rows[0], missing) if header is None else header):
        names, rows = rows[0], rows[1:]
    else:
        names = [str(i) for i in range(len(rows[0]))] if rows else []
    if not rows:
        raise DataError(f"data csv needs rows in {found}, and there are none: check data.path")

    def column(key: str | int, option: str) -> int:
        if isinstance(key, int) and not isinstance(key, bool) and -len(names) <= key < len(names):
            return key % len(names)
        if isinstance(key, str) and names.count(key) == 1:
            return names.index(key)
        raise DataError(
            f"data csv needs data.{option} to be a column of {found}, and {key!r} came; it has: {', '.join(names)}"
        )

    label_at = column(-1 if label is None else label, "label")
    group_at = None if group is None else column(group, "group")
    dropped = {column(key, "drop") for key in drop}
    chosen = {column(key, "categorical") for key in categorical}
    cells = [list(values) for values in zip(*rows, strict=True)]
    for what, at in (("label", label_at), ("group", group_at)):
        gap = next((i for i, text in enumerate(cells[at], 1) if text in missing), None) if at is not None else None
        if gap is not None:
            raise DataError(f"data csv needs a {what} in every row of {found}, and row {gap} has none: remove the row")
    labels = _labels(cells[label_at])
    groups = None if group_at is None else np.array(cells[group_at])
    train, test = split_test("csv", labels, groups, test_fraction, seed)
    features = [
        categorical_features(cells[at], train, missing)
        if at in chosen
        else numeric_features(numeric("csv", names[at], cells[at], missing), train, normalize)
        for at in range(len(names))
        if at not in dropped | {label_at} and at != group_at
    ]
    if not features:
        raise DataError(f"data csv needs at least one column of inputs in {found}, and there is none beside the label")
    inputs = np.concatenate(features, axis=1)
    return array_dataset(
        "csv",
        (inputs[train], labels[train]),
        (inputs[test], labels[test]),
        train_groups=None if groups is None else groups[train],
        test_groups=None if groups is None else groups[test],
        train_limit=train_limit,
        test_limit=test_limit,
        normalize=False,
    )


def _labels(values: Sequence[str]) -> np.ndarray:
    """Return whole numbers if all labels are such from 0 on without gaps, otherwise their texts."""
    try:
        numbers = np.array([float(text) for text in values])
    except ValueError:
        return np.array(values)
    whole = np.unique(numbers)
    return numbers.astype(np.int64) if np.array_equal(whole, np.arange(len(whole))) else np.array(values)
