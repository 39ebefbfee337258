"""Cutting by export, where it is asked for: submodules stay whole, batch and length stay free."""

import pytest
import torch
from torch import nn

from cutlayer.cutting import split
from cutlayer.errors import CutError

from .law import assert_exact, assert_joins
from .zoo import Deciding, Recurrent, ResNet, Stack, UNet


@pytest.mark.parametrize(
    ("build", "cut", "batch"),
    [
        (ResNet, ["layer1.0", "layer2"], lambda n: torch.randn(n, 3, 8, 8)),
        (UNet, ["down1", "up2"], lambda n: torch.randn(n, 3, 8, 8)),
        (Recurrent, ["gru"], lambda n: torch.randn(n, 5, 6)),
        (Stack, ["embed", "blocks.1"], lambda n: (torch.randn(n, 7, 6), torch.rand(n, 7) < 0)),
    ],
    ids=["resnet", "unet", "gru", "stack"],
)
def test_exact(build: type[nn.Module], cut: list[str], batch: object) -> None:
    torch.manual_seed(0)
    model = build()
    parts = split(model, cut, batch(4), method="export")  # type: ignore[operator]
    assert parts.method == "export"
    assert_joins(model, parts)
    assert_exact(model, parts, batch(3))  # type: ignore[operator]


def test_an_example_of_one_sample_is_enough() -> None:
    model = UNet().eval()
    parts = split(model, "down1", torch.randn(2, 3, 8, 8), method="export").eval()
    x = torch.randn(5, 3, 8, 8)
    assert torch.equal(parts(x), model(x))


def test_data_dependent_python_is_refused_with_the_reason() -> None:
    with pytest.raises(CutError, match=r"export: torch\.export cannot follow its forward"):
        split(Deciding(), "second", torch.randn(4, 6), method="export")
