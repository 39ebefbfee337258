"""Nested states as tensors and JSON, and back."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer.errors import DamagedObject, StoreError
from cutlayer.store.trees import flatten, restore

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4)
tensors = st.builds(torch.full, st.tuples(st.integers(0, 3)), st.floats(-9, 9))
trees = st.recursive(
    plain | tensors,
    lambda each: (
        st.lists(each, max_size=3)
        | st.tuples(each, each)
        | st.dictionaries(st.integers(0, 9) | st.text(max_size=3), each, max_size=3)
    ),
)


def equal(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and torch.equal(one, two)
    if isinstance(one, dict):
        return isinstance(two, dict) and list(one) == list(two) and all(equal(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(two) and len(one) == len(two) and all(map(equal, one, two))
    return type(one) is type(two) and bool(one == two)


@settings(deadline=None, max_examples=100)
@given(trees)
def test_a_tree_comes_back(tree: Any) -> None:
    flat, skeleton = flatten(tree)
    assert equal(restore(flat, json.loads(json.dumps(skeleton, allow_nan=False))), tree)


def test_nan_comes_back() -> None:
    assert math.isnan(restore(*flatten([float("nan")]))[0])


def test_two_keys_that_read_alike_keep_their_tensors() -> None:
    tree = {1: torch.zeros(1), "1": torch.ones(1)}
    assert equal(restore(*flatten(tree)), tree)


def test_what_is_neither_tensor_nor_plain_is_refused() -> None:
    with pytest.raises(StoreError, match="object at /a/0"):
        flatten({"a": [object()]})


@pytest.mark.parametrize("skeleton", [{"t": "gone"}, {"t": []}, {"x": 1}, {"d": [[1]]}, {"d": 3}, {}, {"a": 1, "b": 2}])
def test_what_is_no_skeleton_is_refused(skeleton: Any) -> None:
    with pytest.raises(DamagedObject):
        restore({}, skeleton)
