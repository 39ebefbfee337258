"""UCI Heart Disease: the patients of four hospitals, a natural partition."""

from __future__ import annotations

import numpy as np

from cutlayer.data import files
from cutlayer.data.arrays import array_dataset, split_test
from cutlayer.data.csv_table import read_rows
from cutlayer.data.samples import Dataset
from cutlayer.data.table import categorical_features, numeric, numeric_features
from cutlayer.errors import DataError

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
COLUMNS = [
    *("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg"),
    *("thalach", "exang", "oldpeak", "slope", "ca", "thal", "num"),
]
CATEGORICAL = ("cp", "restecg", "slope", "thal")
NEVER_ZERO = ("trestbps", "chol")  # blood pressure and cholesterol: a 0 was not measured (all of switzerland's chol)


def heart_disease(path: str, *, test_fraction: float = 0.2, seed: int = 0, normalize: bool = True) -> Dataset:
    """Return the 920 patients of processed.<hospital>.data in folder ``path``; classes: healthy (num = 0), disease.

    Inputs float32: nine numbers, and one input for each value of cp, restecg, slope and thal.  The groups are the four
    hospitals; ``test_fraction`` of each hospital's healthy and ill is set aside, and medians for gaps and the
    standardisation come from the training patients alone.  Janosi, Steinbrunn, Pfisterer, Detrano (CC BY 4.0).
    """
    name = "heart_disease"
    root = files.folder(name, path)
    rows: list[list[str]] = []
    hospitals: list[str] = []
    for hospital in HOSPITALS:
        found = files.one_of(name, root, [f"processed.{hospital}.data"])
        mine = read_rows(name, found)
        if not mine or len(mine[0]) != len(COLUMNS):
            came = f"{len(mine[0])} columns" if mine else "no rows"
            raise DataError(
                f"data {name} needs {len(COLUMNS)} columns in {found}, and there are {came}: use the processed files"
            )
        rows += mine
        hospitals += [hospital] * len(mine)
    cells = dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
    diagnosis = numeric(name, "num", cells["num"])
    if np.isnan(diagnosis).any() or diagnosis.min() < 0:
        raise DataError(f"data {name} needs a diagnosis of 0 to 4 in every row, and one is missing or below 0")
    labels = (diagnosis > 0).astype(np.int64)
    groups = np.array(hospitals)
    train, test = split_test(name, labels, groups, test_fraction, seed)
    features = []
    for column in COLUMNS[:-1]:
        if column in CATEGORICAL:  # "3" and "3.0" are the same value
            values = ["" if np.isnan(value) else f"{value:g}" for value in numeric(name, column, cells[column])]
            features.append(categorical_features(values, train))
        else:
            numbers = numeric(name, column, cells[column])
            if column in NEVER_ZERO:
                numbers[numbers == 0] = np.nan
            features.append(numeric_features(numbers, train, normalize))
    inputs = np.concatenate(features, axis=1)
    return array_dataset(
        name,
        (inputs[train], labels[train]),
        (inputs[test], labels[test]),
        train_groups=groups[train],
        test_groups=groups[test],
        class_names=("healthy", "disease"),
        normalize=False,
        note="UCI Heart Disease (Janosi, Steinbrunn, Pfisterer, Detrano), four hospitals, disease = diagnosis above 0",
    )
