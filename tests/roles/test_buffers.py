"""Folding the buffers of batches that started from the same weights: as if they had come one after another."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from cutlayer import step
from cutlayer.roles.buffers import fold, rebase


def _sequence(module: nn.Module, batches: list[Tensor]) -> list[Tensor]:
    for batch in batches:
        module(batch)
    return step.snapshot(module)


def _apart(module: nn.Module, batches: list[Tensor]) -> list[list[Tensor]]:
    return [step.run_apart(module, (batch,), 0)[1] for batch in batches]


@settings(max_examples=25, deadline=None)
@given(
    momentum=st.sampled_from([0.1, 0.5, 1.0, None]),
    sizes=st.lists(st.integers(2, 9), min_size=1, max_size=6),
    before=st.integers(0, 3),
)
def test_batch_norm_sees_the_batches_one_after_another(momentum: float | None, sizes: list[int], before: int) -> None:
    module = nn.Sequential(nn.BatchNorm1d(4, momentum=momentum), nn.ReLU())
    _sequence(module, [torch.randn(5, 4) for _ in range(before)])
    batches = [torch.randn(n, 4) * n for n in sizes]
    start, after = step.snapshot(module), _apart(module, batches)
    folded = fold(module, start, after)
    expected = _sequence(copy.deepcopy(module), batches)
    for found, wanted in zip(folded, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert int(folded[2]) == before + len(sizes)


@settings(max_examples=25, deadline=None)
@given(momentum=st.sampled_from([0.1, 0.5, 1.0, None]), old=st.integers(0, 3), new=st.integers(0, 4))
def test_a_late_batch_is_rebased_on_the_statistics_of_today(momentum: float | None, old: int, new: int) -> None:
    module = nn.BatchNorm1d(4, momentum=momentum)
    _sequence(module, [torch.randn(5, 4) + 3 for _ in range(old)])
    before, batch = step.snapshot(module), torch.randn(6, 4) * 5
    (result,) = _apart(module, [batch])
    today = _sequence(module, [torch.randn(5, 4) * 9 for _ in range(new)])
    found = rebase(module, before, result, today)
    for left, right in zip(found, _sequence(module, [batch]), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


def test_one_batch_gives_exactly_its_own_buffers() -> None:
    module = nn.BatchNorm1d(4)
    start, after = step.snapshot(module), _apart(module, [torch.randn(5, 4)])
    assert all(torch.equal(a, b) for a, b in zip(fold(module, start, after), after[0], strict=True))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_the_order_of_the_batches_is_the_canonical_one(momentum: float | None) -> None:
    """The fold is a function of the order it is given, so whoever folds must give the canonical one."""
    module = nn.BatchNorm1d(4, momentum=momentum)
    batches = [torch.randn(5, 4) * scale for scale in (1, 10)]
    start, after = step.snapshot(module), _apart(module, batches)
    twice = [fold(module, start, after) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*twice, strict=True))


def test_other_buffers_are_those_of_the_last_batch() -> None:
    module = parametrizations.spectral_norm(nn.Linear(3, 4))
    start, after = step.snapshot(module), _apart(module, [torch.randn(2, 3), torch.randn(2, 3)])
    assert all(torch.equal(a, b) for a, b in zip(fold(module, start, after), after[1], strict=True))


def test_a_part_without_buffers_has_nothing_to_fold() -> None:
    assert fold(nn.Linear(2, 2), [], [[], []]) == []
