"""Evaluation is made of sums: the score of a union is the sum of the scores."""

from __future__ import annotations

import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cutlayer import step
from cutlayer.data import Subset, TensorSamples
from cutlayer.roles.evaluation import Score, evaluate


def _parts() -> list[nn.Module]:
    split = toys.cut(toys.made(toys.Dense), ["drop1", "drop2"], toys.rows(8))
    return list(split.parts.values())


def _score(parts: list[nn.Module], samples: TensorSamples | Subset, **options: int) -> Score:
    return evaluate(parts, samples, step.cross_entropy, toys.CLASSES, **options)


@settings(max_examples=15, deadline=None)
@given(batch_size=st.integers(1, 70), border=st.integers(0, 60))
def test_the_batches_do_not_matter(batch_size: int, border: int) -> None:
    parts, samples = _parts(), toys.rows(60)
    whole = _score(parts, samples)
    left, right = (Subset(samples, torch.arange(*ends)) for ends in ((0, border), (border, 60)))
    summed = _score(parts, left, batch_size=batch_size) + _score(parts, right, batch_size=batch_size)
    assert (summed.count, summed.correct) == (whole.count, whole.correct)
    assert summed.loss == pytest.approx(whole.loss, rel=1e-5)
    assert summed.confusion is not None
    assert whole.confusion is not None
    assert torch.equal(summed.confusion, whole.confusion)


def test_the_confusion_counts_truth_by_prediction() -> None:
    parts, samples = _parts(), toys.rows(60)
    found = _score(parts, samples)
    assert found.confusion is not None
    assert torch.equal(found.confusion.sum(1), torch.bincount(samples.targets, minlength=toys.CLASSES))
    assert int(found.confusion.trace()) == found.correct
    assert found.accuracy == found.correct / 60


def test_it_runs_in_evaluation_mode_and_leaves_everything_as_it_was() -> None:
    parts, samples = _parts(), toys.rows(30)
    parts[1].eval()
    before = [step.snapshot(p) for p in parts]
    first, second = _score(parts, samples), _score(parts, samples)
    assert first.loss == second.loss, "no dropout"
    assert [p.training for p in parts] == [True, False, True]
    assert all(
        torch.equal(a, b) for p, kept in zip(parts, before, strict=True) for a, b in zip(p.buffers(), kept, strict=True)
    )


def test_nothing_scores_nothing() -> None:
    empty = _score(_parts(), Subset(toys.rows(5), torch.empty(0, dtype=torch.int64)))
    assert empty.accuracy is None
    assert empty.mean_loss is None


def test_sequences_are_scored_position_by_position() -> None:
    samples = TensorSamples(torch.randn(3, 5, 4), torch.randint(4, (3, 5)))
    found = evaluate([nn.Identity()], samples, step.cross_entropy, 4)
    assert found.count == 15
    assert found.correct == int((samples.inputs[0].argmax(-1) == samples.targets).sum())


def test_a_prediction_that_is_no_class_is_no_correct_one_in_the_confusion_either() -> None:
    scores = nn.functional.one_hot(torch.tensor([2, 4, 1]), 5).float()
    found = evaluate([nn.Identity()], TensorSamples(scores, torch.tensor([2, 2, 0])), step.cross_entropy, 3)
    assert found.confusion is not None
    assert (found.count, found.correct, int(found.confusion.diag().sum())) == (3, 1, 1)
