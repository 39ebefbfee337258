"""idx files: written here, read back, and damaged in every way that happens."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cutlayer.data import load
from cutlayer.data.idx import read_idx
from cutlayer.errors import DataError


def encoded(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": random.integers(0, 256, (30, 5, 4)),
        "train-labels-idx1-ubyte": np.arange(30) % 10,
        "t10k-images-idx3-ubyte": random.integers(0, 256, (10, 5, 4)),
        "t10k-labels-idx1-ubyte": np.arange(10),
    }


def write(folder: Path, files: dict[str, np.ndarray], packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in files.items():
        raw = encoded(array)
        (folder / (name + ".gz" if packed else name)).write_bytes(gzip.compress(raw) if packed else raw)
    return folder


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("sub", ["", "MNIST/raw"])
def test_what_is_written_is_read(tmp_path: Path, packed: bool, sub: str) -> None:
    files = arrays()
    write(tmp_path / sub, files, packed)
    data = load("mnist", path=str(tmp_path), normalize=False)
    (train,), labels = data.train.take(torch.arange(30))
    assert np.array_equal((train[:, 0] * 255).round().numpy(), files["train-images-idx3-ubyte"])
    assert labels.tolist() == files["train-labels-idx1-ubyte"].tolist()
    assert (len(data.train), len(data.test), data.classes, data.input_shape) == (30, 10, 10, (1, 5, 4))


def test_normalised_training_images_have_mean_zero_and_deviation_one(tmp_path: Path) -> None:
    data = load("mnist", path=write(tmp_path, arrays()))
    (train,), _ = data.train.take(torch.arange(30))
    assert abs(float(train.mean())) < 1e-5
    assert float(train.std(correction=0)) == pytest.approx(1, abs=1e-5)


def test_limits_keep_the_first_samples_and_the_scale(tmp_path: Path) -> None:
    write(tmp_path, arrays())
    whole, short = load("mnist", path=tmp_path), load("mnist", path=tmp_path, train_limit=7, test_limit=3)
    assert (len(short.train), len(short.test)) == (7, 3)
    assert torch.equal(short.train.take(torch.arange(7))[0][0], whole.train.take(torch.arange(7))[0][0])


def test_a_generic_folder_counts_its_own_classes(tmp_path: Path) -> None:
    files = arrays()
    files["train-labels-idx1-ubyte"] = np.arange(30) % 3
    files["test-images-idx3-ubyte"] = files.pop("t10k-images-idx3-ubyte")
    files["test-labels-idx1-ubyte"] = files.pop("t10k-labels-idx1-ubyte") % 3
    data = load("idx", path=write(tmp_path, files))
    assert data.class_names == ("0", "1", "2")
    named = load("idx", path=tmp_path, class_names=["a", "b", "c"])
    assert named.class_names == ("a", "b", "c")


def test_fashion_mnist_names_its_classes(tmp_path: Path) -> None:
    assert load("fashion_mnist", path=write(tmp_path, arrays())).class_names[9] == "ankle boot"


def damaged(folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    path = folder / name
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-images-idx3-ubyte", lambda raw: raw[:-1], "hold 600 bytes .* holds 599.*truncated"),
        ("train-images-idx3-ubyte", lambda raw: raw + b"x", "holds 601"),
        ("train-images-idx3-ubyte", lambda raw: b"\x89PNG" + raw, "starts with 89 50 4e 47"),
        ("train-images-idx3-ubyte", lambda raw: b"", "starts with nothing"),
        ("t10k-labels-idx1-ubyte", lambda raw: encoded(np.arange(9)), "10 images and 9 labels"),
        ("t10k-labels-idx1-ubyte", lambda raw: encoded(np.zeros((2, 5))), "needs .* to have 1 dimensions"),
        ("train-labels-idx1-ubyte", lambda raw: encoded(np.full(30, 11)), "labels must be 0 to 9"),
        ("t10k-images-idx3-ubyte", lambda raw: encoded(np.zeros((10, 4, 4))), r"\(1, 5, 4\) and \(1, 4, 4\)"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, change: Callable[[bytes], bytes], message: str) -> None:
    write(tmp_path, arrays())
    damaged(tmp_path, name, change)
    with pytest.raises(DataError, match=message):
        load("mnist", path=tmp_path)


def test_a_torn_gzip_is_refused(tmp_path: Path) -> None:
    write(tmp_path, arrays(), packed=True)
    damaged(tmp_path, "train-images-idx3-ubyte.gz", lambda raw: raw[: len(raw) // 2])
    with pytest.raises(DataError, match="whole gzip file, and it is damaged"):
        load("mnist", path=tmp_path)


def test_an_empty_set_is_refused(tmp_path: Path) -> None:
    files = arrays()
    files["train-images-idx3-ubyte"], files["train-labels-idx1-ubyte"] = np.zeros((0, 5, 4)), np.zeros(0)
    write(tmp_path, files)
    for source in ("mnist", "idx"):
        with pytest.raises(DataError, match="at least one training image"):
            load(source, path=tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, arrays())
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"t10k-labels.* in .*, and there is t10k-images-idx3-ubyte, train-"):
        load("mnist", path=tmp_path)


def test_two_files_for_one_purpose_are_not_guessed_between(tmp_path: Path) -> None:
    write(tmp_path, arrays())
    write(tmp_path, {"train-images-copy-ubyte": np.zeros((30, 5, 4))})
    with pytest.raises(DataError, match="keep one of them"):
        load("mnist", path=tmp_path)


def test_headers_of_any_number_of_dimensions_are_read(tmp_path: Path) -> None:
    array = np.arange(24).reshape(2, 3, 2, 2)
    (tmp_path / "x").write_bytes(encoded(array))
    assert np.array_equal(read_idx("idx", tmp_path / "x"), array)


def test_mnist_itself(real: Callable[[str], Path]) -> None:
    data = load("mnist", path=real("mnist"))
    assert (len(data.train), len(data.test), data.input_shape) == (60_000, 10_000, (1, 28, 28))
    assert torch.bincount(data.train.targets).tolist() == [
        *(5923, 6742, 5958, 6131, 5842),
        *(5421, 5918, 6265, 5851, 5949),
    ]
    (batch,), _ = data.train.take(torch.arange(10_000))
    assert abs(float(batch.mean())) < 0.02
    assert float(batch.std()) == pytest.approx(1, abs=0.02)
