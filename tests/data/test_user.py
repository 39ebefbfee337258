"""Data from a user's own function."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from cutlayer.data import ImageSamples, load
from cutlayer.errors import ConfigError, DataError

CODE = """
import numpy as np, torch
from cutlayer.data import Dataset, TensorSamples

def arrays(n=10):
    x = np.arange(2.0 * n).reshape(n, 2)
    return x, np.arange(n) % 2, x, np.arange(n) % 2

def tensors():
    return tuple(torch.tensor(a) for a in arrays())

def images():
    x = torch.randint(0, 256, (10, 3, 4, 4), dtype=torch.uint8)
    return x, torch.arange(10) % 2, x, torch.arange(10) % 2

def dataset(classes):
    s = TensorSamples(torch.zeros(4, 2), torch.arange(4) % 2)
    return Dataset("mine", s, s, classes, tuple(map(str, range(classes))), (2,))

def wrong():
    return 5

def ragged():
    return [[1], [1, 2]], [0, 1], [[1]], [0]

bad = dataset.__name__
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_data.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    sys.modules.pop("my_data", None)


@pytest.mark.parametrize("function", ["arrays", "tensors"])
def test_arrays_stay_as_they_are(function: str) -> None:
    data = load(f"my_data:{function}")
    (inputs,), _ = data.train.take(torch.arange(10))
    assert inputs.flatten().tolist() == list(range(20))
    assert data.classes == 2


def test_images_are_normalised() -> None:
    data = load("my_data:images")
    assert isinstance(data.train, ImageSamples)
    assert abs(float(data.train.take(torch.arange(10))[0][0].mean())) < 1e-5


def test_options_reach_the_function() -> None:
    assert len(load("my_data:arrays", n=6).train) == 6
    assert load("my_data:dataset", classes=2).name == "mine"


@pytest.mark.parametrize(
    ("target", "options", "error", "message"),
    [
        ("my_data:arrays", {"m": 3}, ConfigError, "has no option 'm'; it has: n"),
        ("my_data:dataset", {}, ConfigError, "needs the option 'classes'"),
        ("my_data:nothing", {}, ConfigError, "has no 'nothing'"),
        ("my_data:bad", {}, ConfigError, "must be a function or class, and it is a str"),
        ("no_such_module:f", {}, ConfigError, "needs the module 'no_such_module'"),
        (":f", {}, ConfigError, "package.module:function"),
        ("my_data:wrong", {}, DataError, "returned a int"),
        ("my_data:ragged", {}, DataError, "must return arrays or tensors"),
        ("my_data:dataset", {"classes": 1}, DataError, "at least 2 classes"),
    ],
)
def test_mistakes_are_named(target: str, options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load(target, **options)
