"""Hugging Face data sets on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cutlayer.data import ImageSamples, load
from cutlayer.errors import DataError

datasets = pytest.importorskip("datasets", reason="the extra hf is not installed")
Image = pytest.importorskip("PIL.Image", reason="the extra hf is not installed")


def pictures(n: int = 20) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (4, 4, 3), dtype=np.uint8) for _ in range(n)]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "writer": datasets.Value("string"),
        }
    )
    columns = {
        "img": [Image.fromarray(picture) for picture in pictures()],
        "label": [i % 2 for i in range(20)],
        "writer": [f"w{i % 4}" for i in range(20)],
    }
    whole = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict({"train": whole, "test": whole.select(range(4))}).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_images_classes_and_writers_are_found(images: Path) -> None:
    data = load("hf", path=images, group="writer", normalize=False)
    assert isinstance(data.train, ImageSamples)
    assert data.class_names == ("cat", "dog")
    assert (len(data.train), len(data.test), data.input_shape) == (20, 4, (3, 4, 4))
    (batch,), labels = data.train.take(torch.arange(20))
    assert np.array_equal((batch.numpy() * 255).round(), np.stack(pictures()).transpose(0, 3, 1, 2))
    assert labels.tolist() == [i % 2 for i in range(20)]
    assert data.group_names == ("w0", "w1", "w2", "w3")
    assert data.test_groups is not None


def test_numbers_without_a_test_split(tmp_path: Path) -> None:
    table = {
        "a": [float(i) for i in range(20)],
        "b": [1.0] * 20,
        "text": ["x"] * 20,
        "label": [i % 2 for i in range(20)],
    }
    datasets.Dataset.from_dict(table).save_to_disk(tmp_path / "saved")
    data = load("hf", path=tmp_path / "saved")
    assert (len(data.train), len(data.test), data.input_shape) == (16, 4, (2,))


def test_lists_of_numbers(tmp_path: Path) -> None:
    table = {"ids": [[i, i + 1, 2] for i in range(20)], "y": [i % 3 for i in range(20)]}
    datasets.Dataset.from_dict(table).save_to_disk(tmp_path / "saved")
    data = load("hf", path=tmp_path / "saved", inputs="ids", label="y")
    assert data.input_shape == (3,)
    assert data.train.take(torch.tensor([0]))[0][0].dtype == torch.int64


def test_mistakes_are_named(tmp_path: Path, images: Path) -> None:
    with pytest.raises(DataError, match=r"and it has img, label, writer: set data\.inputs"):
        load("hf", path=images, inputs="picture")
    with pytest.raises(DataError, match=r"needs a split 'training' in .*, and there are train, test"):
        load("hf", path=images, train="training")
    datasets.Dataset.from_dict({"x": [[1], [1, 2]], "label": [0, 1]}).save_to_disk(tmp_path / "ragged")
    with pytest.raises(DataError, match="inputs of one shape in column x"):
        load("hf", path=tmp_path / "ragged", inputs="x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be opened"):
        load("hf", path=tmp_path / "empty")
