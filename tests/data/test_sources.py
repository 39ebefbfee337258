"""The table of sources, their options, and the embedded data."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest
import torch

from cutlayer.data import SOURCES, load
from cutlayer.errors import ConfigError, DataError


def test_digits_need_no_files() -> None:
    data = load("digits")
    assert (data.classes, data.input_shape, len(data.train), len(data.test)) == (10, (1, 8, 8), 1438, 359)
    (images,), _ = data.train.take(torch.arange(1438))
    assert abs(float(images.mean())) < 1e-4
    assert float(images.std()) == pytest.approx(1, abs=1e-3)
    share = torch.bincount(data.test.targets) / 359 - torch.bincount(data.train.targets) / 1438
    assert float(share.abs().max()) < 1 / 359
    (plain,), _ = load("digits", normalize=False).train.take(torch.arange(1438))
    assert (float(plain.min()), float(plain.max())) == (0, 1)


def test_digits_are_the_same_every_time() -> None:
    first, second, other = load("digits"), load("digits"), load("digits", seed=1)
    assert torch.equal(first.test.targets, second.test.targets)
    assert not torch.equal(first.test.targets, other.test.targets)
    assert len(load("digits", train_limit=100, test_limit=5).train) == 100


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_exists_and_is_documented(name: str) -> None:
    module, _, function = SOURCES[name].partition(":")
    source = getattr(import_module(module), function)
    assert inspect.getdoc(source)


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "digits"])
def test_a_path_is_asked_for(name: str) -> None:
    with pytest.raises(DataError, match=rf"data {name} needs data\.path"):
        load(name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digist", {}, "'digist' is not a source; there are: digits, mnist"),
        ("digits", {"path": "x"}, "data digits has no option 'path'; it has: test_fraction, seed"),
        ("digits", {"test_fraction": "half"}, "test_fraction to be of type float, and 'half' came"),
        ("digits", {"normalize": "yes"}, "normalize to be of type bool"),
        ("digits", {"test_fraction": 1.5}, r"in \[0, 1\)"),
        ("csv", {"path": "x", "categorical": "colour"}, "categorical to be of type"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(name, **options)


def test_a_limit_keeps_something() -> None:
    with pytest.raises(DataError, match="train_limit must be at least 1, and 0 came"):
        load("digits", train_limit=0)
