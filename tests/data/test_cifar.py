"""CIFAR binary files: written here and read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cutlayer.data import load
from cutlayer.errors import DataError

TRAIN = [f"data_batch_{i}.bin" for i in range(1, 6)]


def records(n: int, label_bytes: int, classes: int, seed: int) -> np.ndarray:
    table = np.random.default_rng(seed).integers(0, 256, (n, label_bytes + 3072), dtype=np.uint8)
    table[:, label_bytes - 1] = np.arange(n) % classes
    return table


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    for seed, name in enumerate([*TRAIN, "test_batch.bin"]):
        records(4, 1, 10, seed).tofile(tmp_path / name)
    (tmp_path / "batches.meta.txt").write_text(
        "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n"
    )
    return tmp_path


def test_what_is_written_is_read(cifar10: Path) -> None:
    data = load("cifar10", path=cifar10, normalize=False)
    (images,), labels = data.train.take(torch.arange(20))
    expected = np.concatenate([records(4, 1, 10, seed) for seed in range(5)])
    assert np.array_equal((images.numpy() * 255).round(), expected[:, 1:].reshape(-1, 3, 32, 32))
    assert labels.tolist() == expected[:, 0].tolist()
    assert len(data.test) == 4
    assert data.class_names[3] == "cat"


def test_the_folder_above_is_fine_too(cifar10: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    above = tmp_path_factory.mktemp("above")
    (above / "cifar-10-batches-bin").symlink_to(cifar10)
    assert len(load("cifar10", path=above).train) == 20


def test_channels_are_normalised_separately(cifar10: Path) -> None:
    (images,), _ = load("cifar10", path=cifar10).train.take(torch.arange(20))
    assert torch.allclose(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(images.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)


def test_cifar100_takes_the_fine_label(tmp_path: Path) -> None:
    records(200, 2, 100, 0).tofile(tmp_path / "train.bin")
    records(100, 2, 100, 1).tofile(tmp_path / "test.bin")
    data = load("cifar100", path=tmp_path)
    assert data.train.targets.tolist() == [i % 100 for i in range(200)]
    assert data.classes == 100


def test_a_truncated_file_is_refused(cifar10: Path) -> None:
    path = cifar10 / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="whole records of 3073 bytes, and it has 12291"):
        load("cifar10", path=cifar10)


def test_a_missing_batch_is_named(cifar10: Path) -> None:
    (cifar10 / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"needs a file data_batch_3\.bin"):
        load("cifar10", path=cifar10)


def test_a_label_out_of_range_is_refused(cifar10: Path) -> None:
    records(4, 1, 10, 0)[:, :].tofile(cifar10 / "data_batch_1.bin")
    raw = bytearray((cifar10 / "data_batch_1.bin").read_bytes())
    raw[0] = 10
    (cifar10 / "data_batch_1.bin").write_bytes(raw)
    with pytest.raises(DataError, match="labels run from 0 to 10"):
        load("cifar10", path=cifar10)


def test_missing_and_wrong_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is nothing: set data\.path"):
        load("cifar10", path=tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="it is a file"):
        load("cifar10", path=tmp_path / "file")


def test_cifar10_itself(real: Callable[[str], Path]) -> None:
    data = load("cifar10", path=real("cifar10"), normalize=False)
    assert torch.bincount(data.train.targets).tolist() == [5000] * 10
    assert torch.bincount(data.test.targets).tolist() == [1000] * 10
    (images,), _ = data.train.take(torch.arange(0, 50_000, 10))
    assert torch.allclose(images.mean((0, 2, 3)), torch.tensor([0.4914, 0.4822, 0.4465]), atol=0.01)
