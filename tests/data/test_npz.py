"""npz files: both forms, groups, layouts, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cutlayer.data import ImageSamples, client_splits, load, partition
from cutlayer.errors import DataError

RANDOM = np.random.default_rng(0)


def save(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


def test_four_arrays_are_train_and_test(tmp_path: Path) -> None:
    x, y = RANDOM.normal(size=(20, 3)), np.arange(20) % 4
    data = load(
        "npz", path=save(tmp_path, x_train=x[:12], y_train=y[:12], x_test=x[12:], y_test=y[12:]), normalize=False
    )
    (train,), labels = data.train.take(torch.arange(12))
    assert np.allclose(train.numpy(), x[:12])
    assert labels.tolist() == y[:12].tolist()
    assert (len(data.test), data.classes, data.input_shape) == (8, 4, (3,))


def test_features_are_normalised_by_the_training_part_alone(tmp_path: Path) -> None:
    x = RANDOM.normal(5, 3, (50, 2))
    x[:, 1] = 7
    path = save(tmp_path, x_train=x, y_train=np.arange(50) % 2, x_test=x + 100, y_test=np.arange(50) % 2)
    data = load("npz", path=path)
    (train,), _ = data.train.take(torch.arange(50))
    (test,), _ = data.test.take(torch.arange(50))
    assert torch.allclose(train.mean(0), torch.zeros(2), atol=1e-5)
    assert float(train[:, 0].std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert torch.equal(train[:, 1], torch.zeros(50))
    assert float(test[:, 0].mean()) == pytest.approx(100 / x[:, 0].std(), rel=1e-4)


def test_a_test_part_is_set_aside_for_every_client_and_label(tmp_path: Path) -> None:
    y, client = np.tile(np.arange(2), 100), np.repeat([10, 20], 100)
    path = save(tmp_path, x=np.arange(200.0)[:, None], y=y, client=client)
    data = load("npz", path=path, test_fraction=0.1, normalize=False)
    assert data.group_names == ("10", "20")
    assert torch.bincount(data.test_groups * 2 + data.test.targets).tolist() == [5, 5, 5, 5]  # type: ignore[operator]
    everything = torch.cat([part.take(torch.arange(len(part)))[0][0] for part in (data.train, data.test)])
    assert sorted(everything.flatten().tolist()) == list(range(200))
    again = load("npz", path=path, test_fraction=0.1, normalize=False)
    assert torch.equal(data.test.take(torch.arange(20))[0][0], again.test.take(torch.arange(20))[0][0])
    other = load("npz", path=path, test_fraction=0.1, normalize=False, seed=1)
    assert not torch.equal(data.test.take(torch.arange(20))[0][0], other.test.take(torch.arange(20))[0][0])


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((10, 6, 5), "auto", (1, 6, 5)),
        ((10, 3, 6, 5), "auto", (3, 6, 5)),
        ((10, 6, 5, 3), "auto", (3, 6, 5)),
        ((10, 3, 5, 3), "auto", (3, 5, 3)),
        ((10, 3, 5, 3), "hwc", (3, 3, 5)),
    ],
)
def test_bytes_are_images(tmp_path: Path, shape: tuple[int, ...], layout: str, expected: tuple[int, ...]) -> None:
    x = RANDOM.integers(0, 256, shape, dtype=np.uint8)
    data = load("npz", path=save(tmp_path, x=x, y=np.arange(10) % 2), layout=layout)
    assert isinstance(data.train, ImageSamples)
    assert data.input_shape == expected


def test_inverted_images_are_light_on_dark(tmp_path: Path) -> None:
    path = save(tmp_path, x=np.full((10, 2, 2), 250, np.uint8), y=np.arange(10) % 2)
    (batch,), _ = load("npz", path=path, invert=True, normalize=False).train.take(torch.tensor([0]))
    assert torch.allclose(batch, torch.full((1, 1, 2, 2), 5 / 255))


def test_whole_numbers_stay_whole(tmp_path: Path) -> None:
    data = load("npz", path=save(tmp_path, x=np.arange(40).reshape(10, 4), y=np.arange(10) % 2))
    (tokens,), _ = data.train.take(torch.arange(8))
    assert tokens.dtype == torch.int64


def test_text_labels_are_numbered_and_named(tmp_path: Path) -> None:
    data = load("npz", path=save(tmp_path, x=np.zeros((10, 1)), y=np.array(["cat", "ant"] * 5)))
    assert data.class_names == ("ant", "cat")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros(3)}, "and there are a: rename them"),
        ({"x": np.zeros((3, 1)), "y": np.zeros(4)}, "each of the 3 samples of x, and y has shape"),
        ({"x": np.zeros((4, 1)), "y": np.zeros(4), "client": np.zeros(3)}, "client has shape"),
        ({"x": np.zeros((0, 1)), "y": np.zeros(0)}, "at least one training sample"),
        ({"x": np.array([[1.0], [np.nan]] * 5), "y": np.arange(10) % 2}, "NaN or infinity"),
        ({"x": np.zeros((10, 1)), "y": np.full(10, 0.5)}, "not whole"),
        ({"x": np.zeros((10, 1)), "y": np.zeros(10, int)}, "at least 2 classes"),
        ({"x": np.array([["a"]] * 10), "y": np.arange(10) % 2}, "needs numbers as inputs"),
        ({"x": np.array([{}] * 10), "y": np.arange(10) % 2}, "without object arrays"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load("npz", path=save(tmp_path, **arrays))


def test_other_test_data_is_refused(tmp_path: Path) -> None:
    plain = {"x_train": np.zeros((10, 2)), "y_train": np.arange(10) % 2}
    for changes, message in (
        ({"x_test": np.zeros((4, 3)), "y_test": np.zeros(4)}, "one shape and kind"),
        ({"x_test": np.zeros((4, 2)), "y_test": np.zeros(3)}, "one label per sample, and the test part"),
        ({"x_test": np.zeros((4, 2)), "y_test": np.full(4, 2)}, "test labels run from 2 to 2"),
        ({"x_test": np.zeros((4, 2)), "y_test": np.zeros(4), "client_train": np.zeros(3)}, "client_train"),
    ):
        with pytest.raises(DataError, match=message):
            load("npz", path=save(tmp_path, **plain, **changes))


def test_what_is_not_an_npz_file_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, x=np.zeros((10, 1)), y=np.arange(10) % 2)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="cannot be read as one"):
        load("npz", path=path)
    path.write_bytes(b"hello")
    with pytest.raises(DataError, match="cannot be read as one"):
        load("npz", path=path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match="it is one npy array"):
        load("npz", path=tmp_path / "one.npy")
    with pytest.raises(DataError, match="it is a folder"):
        load("npz", path=tmp_path)


@pytest.mark.parametrize("label", [10**9, np.inf])
def test_labels_that_are_identifiers_are_refused_before_classes_are_counted(tmp_path: Path, label: float) -> None:
    y = np.arange(10) % 2 * label if label < np.inf else np.full(10, label)
    with pytest.raises(DataError, match="class numbers below 1000000"):
        load("npz", path=save(tmp_path, x=np.zeros((10, 3), np.float32), y=y))


def test_femnist_digits_have_twelve_natural_clients(real: Callable[[str], Path]) -> None:
    data = load("npz", path=real("femnist_digits") / "femnist_digits.npz", invert=True)
    parts = partition(data, 12, "natural", 0)
    shares = client_splits(data, parts, by_group=True)
    assert sum(len(s.train) + len(s.test) for s in shares) == 5997
    assert [len(s.train) + len(s.test) for s in shares][:3] == [487, 504, 544]
