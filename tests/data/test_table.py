"""Columns of text to inputs, fitted on training rows only."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.data.table import categorical_features, numeric, numeric_features
from cutlayer.errors import DataError

ROWS = np.arange(4)


@given(st.lists(st.one_of(st.none(), st.floats(-100, 100)), min_size=5, max_size=30), st.floats(-1e6, 1e6))
def test_test_rows_change_nothing_for_training_rows(values: list[float | None], other: float) -> None:
    column = np.array([np.nan if value is None else value for value in values])
    train = np.arange(len(values) - 1)
    changed = column.copy()
    changed[-1] = other
    first, second = numeric_features(column, train, True), numeric_features(changed, train, True)
    assert np.array_equal(first[:-1], second[:-1])
    assert np.isfinite(first).all()


def test_gaps_become_the_training_median() -> None:
    column = np.array([1.0, 2.0, np.nan, 9.0, np.nan])
    assert numeric_features(column, ROWS, False)[:, 0].tolist() == [1, 2, 2, 9, 2]
    assert numeric_features(np.full(5, np.nan), ROWS, True)[:, 0].tolist() == [0] * 5


def test_categories_are_those_of_the_training_rows() -> None:
    features = categorical_features(["b", "a", "?", "b", "c"], ROWS)
    assert features.tolist() == [[0, 1], [1, 0], [0, 0], [0, 1], [0, 0]]


def test_text_among_numbers_is_named() -> None:
    assert np.isnan(numeric("csv", "age", ["", "?", "NA", "1e3"])).tolist() == [True, True, True, False]
    with pytest.raises(DataError, match="column age, and row 2 has 'old'"):
        numeric("csv", "age", ["1", "old"])
    with pytest.raises(DataError, match="finite"):
        numeric("csv", "age", ["inf"])
