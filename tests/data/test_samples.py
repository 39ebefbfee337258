"""Samples read by index, and the checks every data set passes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.data import Dataset, ImageSamples, Samples, Subset, TensorSamples, check
from cutlayer.errors import DataError


def dataset(**changes: object) -> Dataset:
    samples = TensorSamples(torch.arange(8.0).view(4, 2), torch.tensor([0, 1, 0, 1]))
    plain = Dataset("toy", samples, samples, 2, ("a", "b"), (2,))
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def images(n: int = 5) -> ImageSamples:
    pixels = torch.arange(n * 2 * 3 * 3, dtype=torch.uint8).view(n, 2, 3, 3)
    return ImageSamples(pixels, torch.arange(n), torch.tensor([0.5, 2.0]), torch.tensor([-1.0, 3.0]))


def test_take_gives_the_asked_samples_in_the_asked_order() -> None:
    samples = TensorSamples((torch.arange(5.0), torch.arange(10).view(5, 2)), torch.arange(5))
    (first, second), targets = samples.take(torch.tensor([4, 0, 4]))
    assert first.tolist() == [4, 0, 4]
    assert second.tolist() == [[8, 9], [0, 1], [8, 9]]
    assert targets.tolist() == [4, 0, 4]


def test_images_are_scaled_and_shifted_per_channel() -> None:
    samples = images()
    (batch,), targets = samples.take(torch.tensor([3, 1]))
    raw = samples.images[[3, 1]].float()
    assert batch.dtype == torch.float32
    assert torch.equal(batch[:, 0], raw[:, 0] * 0.5 - 1)
    assert torch.equal(batch[:, 1], raw[:, 1] * 2 + 3)
    assert targets.tolist() == [3, 1]


def test_taking_does_not_change_the_samples() -> None:
    samples = images()
    (first,), _ = samples.take(torch.arange(5))
    first.add_(100)
    (again,), _ = samples.take(torch.arange(5))
    assert float((first - again).min()) == 100


@given(st.lists(st.integers(0, 4), max_size=8), st.data())
def test_a_subset_counts_within_itself(chosen: list[int], data: st.DataObject) -> None:
    base, index = images(), torch.tensor(chosen, dtype=torch.int64)
    subset = Subset(base, index)
    inside = data.draw(st.lists(st.integers(0, len(chosen) - 1), max_size=5)) if chosen else []
    j = torch.tensor(inside, dtype=torch.int64)
    (x,), y = subset.take(j)
    (expected_x,), expected_y = base.take(index[j])
    assert torch.equal(x, expected_x)
    assert torch.equal(y, expected_y)
    assert torch.equal(subset.targets, base.targets[index])
    assert len(subset) == len(chosen)


def test_samples_of_another_kind_fit_the_protocol() -> None:
    class Sentences:
        def __init__(self) -> None:
            self.texts = ["a", "b", "c"]
            self.targets = torch.tensor([0, 1, 1])

        def __len__(self) -> int:
            return 3

        def take(self, index: torch.Tensor) -> tuple[tuple[list[str]], torch.Tensor]:
            return ([self.texts[i] for i in index.tolist()],), self.targets[index]

    samples = Sentences()
    assert isinstance(samples, Samples)
    assert check(dataset(train=samples)).train is samples
    assert Subset(samples, torch.tensor([2, 0])).take(torch.tensor([0]))[0] == (["c"],)


@pytest.mark.parametrize("samples", [TensorSamples(torch.zeros(2, 3), torch.zeros(2)), images()])
def test_samples_move_to_a_device(samples: TensorSamples | ImageSamples) -> None:
    moved = samples.to("meta")
    assert moved.targets.device.type == "meta"
    assert len(moved) == len(samples)


def test_lengths_must_agree() -> None:
    with pytest.raises(DataError, match=r"one label for each sample.*\(3, 2\) with 4 labels"):
        TensorSamples(torch.zeros(3, 2), torch.zeros(4))
    with pytest.raises(DataError, match="uint8"):
        ImageSamples(torch.zeros(3, 1, 2, 2), torch.zeros(3), torch.ones(1), torch.zeros(1))


def labelled(*labels: int) -> TensorSamples:
    return TensorSamples(torch.zeros(len(labels), 2), torch.tensor(labels, dtype=torch.int64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": labelled(0, 2)}, "labels must be 0 to 1, and the training labels run from 0 to 2"),
        ({"test": labelled(0, -1)}, "test labels run from -1 to 0"),
        ({"train": labelled()}, "at least one training sample"),
        ({"test": labelled()}, "at least one test sample"),
        ({"classes": 1, "class_names": ("a",)}, "at least 2 classes"),
        ({"class_names": ("a",)}, "says 2 classes but names 1"),
        ({"train": TensorSamples(torch.tensor([[1.0], [torch.nan]]), torch.tensor([0, 1]))}, "1 of its 2 .*NaN"),
        ({"train": TensorSamples(torch.tensor([1.0, torch.inf]), torch.tensor([0, 1]))}, "infinity"),
        ({"groups": torch.tensor([0, 0, 0]), "group_names": ("x",)}, "group number"),
        ({"groups": torch.tensor([0, 0, 0, 1]), "group_names": ("x",)}, "only 1 group names"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check(dataset(**changes))
