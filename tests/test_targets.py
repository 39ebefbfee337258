"""User models by name, called with what they accept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cutlayer.errors import ConfigError
from cutlayer.models import build
from cutlayer.targets import call_accepted, load_target

CODE = """
import torch
from torch import nn

def both(classes, input_shape):
    return nn.Linear(input_shape[0], classes)

def own(width=6, *, bias=True):
    return nn.Linear(3, width, bias=bias)

def anything(**options):
    assert sorted(options) == ["classes", "input_shape", "width"]
    return nn.Linear(3, options["width"])

def demanding(width):
    return nn.Linear(3, width)

def nothing():
    return None

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.fc = nn.Linear(3, classes)

class Shelf:
    net = Net
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_models.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_models", raising=False)


def make(target: str, **options: object) -> torch.nn.Module:
    return build(target, classes=4, input_shape=(3,), seed=0, **options)


def test_only_what_the_signature_accepts_is_passed() -> None:
    assert make("my_models:both").weight.shape == (4, 3)
    assert make("my_models:own").weight.shape == (6, 3)
    assert make("my_models:own", width=2, bias=False).weight.shape == (2, 3)
    assert make("my_models:anything", width=2).weight.shape == (2, 3)
    assert make("my_models:Net").fc.weight.shape == (4, 3)  # type: ignore[union-attr]
    assert make("my_models:Shelf.net").fc.weight.shape == (4, 3)  # type: ignore[union-attr]


def test_user_models_are_seeded_too() -> None:
    first, again = make("my_models:both"), make("my_models:both")
    assert torch.equal(first.weight, again.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("my_models:own", {"depth": 2}, "has no option 'depth'; it has: width, bias"),
        ("my_models:demanding", {}, "needs the option 'width'"),
        ("my_models:nothing", {}, r"must return a torch\.nn\.Module, and it returned a NoneType"),
        ("my_models:missing", {}, "my_models has no 'missing'"),
        ("my_model:net", {}, "needs the module 'my_model', and it cannot be imported"),
    ],
)
def test_mistakes_are_named(target: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(target, **options)


def test_a_file_in_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    other = tmp_path / "here"
    other.mkdir()
    (other / "beside_the_experiment.py").write_text("def f(): return 5")
    monkeypatch.chdir(other)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    assert call_accepted(load_target("beside_the_experiment:f", "data"), "data", {}, {}) == 5
    sys.modules.pop("beside_the_experiment")
