"""Whole numbers in proportion, and stratified splits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.data.apportion import apportion, stratified
from cutlayer.errors import ConfigError


@given(st.integers(0, 10**6), st.lists(st.floats(0, 1e6), min_size=1, max_size=40).filter(lambda w: sum(w) > 0))
def test_apportioning_is_exact_and_close(total: int, weights: list[float]) -> None:
    exact = total * np.array(weights) / sum(weights)
    whole = apportion(total, np.array(weights))
    assert whole.sum() == total
    assert np.all(np.abs(whole - exact) < 1 + 1e-6)
    assert np.all(whole >= 0)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.floats(0, 0.9), st.integers(0, 99))
def test_a_stratified_split_keeps_the_mixture(labels: list[int], fraction: float, seed: int) -> None:
    targets = torch.tensor(labels)
    rest, part = stratified(targets, fraction, seed, "test")
    assert sorted(rest.tolist() + part.tolist()) == list(range(len(labels)))
    assert len(part) == min(round(fraction * len(labels)), len(labels) - 1)
    for label in set(labels):
        exact = len(part) * labels.count(label) / len(labels)
        assert abs(int((targets[part] == label).sum()) - exact) <= 1
    again = stratified(targets, fraction, seed, "test")
    assert torch.equal(rest, again[0])
    assert torch.equal(part, again[1])


def test_seeds_and_names_choose_other_samples() -> None:
    targets = torch.arange(200) % 5
    parts = {tuple(stratified(targets, 0.3, seed, name)[1].tolist()) for seed in (0, 1) for name in ("a", "b")}
    assert len(parts) == 4


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2.0])
def test_a_fraction_is_a_fraction(fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"in \[0, 1\)"):
        stratified(torch.zeros(4, dtype=torch.int64), fraction, 0)
