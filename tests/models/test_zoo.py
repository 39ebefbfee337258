"""Every model of the zoo: shapes, published sizes, seeds, and cuts at every child."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from cutlayer.cutting import split
from cutlayer.errors import ConfigError
from cutlayer.models import DEFAULT_CUTS, MODELS, build

SHAPES = {"lenet": (1, 28, 28), "resnet110": (3, 8, 8), "resnet56": (3, 8, 8)}


def shape_of(name: str) -> tuple[int, ...]:
    return SHAPES.get(name, (3, 16, 16))


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch", [1, 3])
def test_logits_have_one_column_per_class(name: str, batch: int) -> None:
    model = build(name, classes=7, input_shape=shape_of(name), seed=0).eval()
    assert model(torch.randn(batch, *shape_of(name))).shape == (batch, 7)


@pytest.mark.parametrize(
    ("name", "shape", "options", "expected"),
    [
        ("mlp", (1, 28, 28), {}, 784 * 64 + 64 + 64 * 64 + 64 + 64 * 10 + 10),
        ("lenet", (1, 28, 28), {}, 61_706),
        ("resnet18", (3, 32, 32), {}, 11_173_962),
        ("resnet18", (3, 32, 32), {"stem": 7}, 11_181_642),
        ("resnet20", (3, 32, 32), {}, 269_722),
        ("resnet56", (3, 32, 32), {}, 853_018),
        ("resnet110", (3, 32, 32), {}, 1_727_962),
    ],
)
def test_sizes_are_the_published_ones(
    name: str, shape: tuple[int, ...], options: dict[str, Any], expected: int
) -> None:
    assert parameters(build(name, classes=10, input_shape=shape, seed=0, **options)) == expected


@pytest.mark.parametrize("name", MODELS)
def test_weights_belong_to_the_seed_and_global_randomness_stays(name: str) -> None:
    def weights(seed: int) -> dict[str, torch.Tensor]:
        return build(name, classes=3, input_shape=shape_of(name), seed=seed).state_dict()

    torch.manual_seed(11)
    state = torch.get_rng_state()
    first = weights(0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    again, other = weights(0), weights(1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", MODELS)
def test_every_child_but_the_last_is_a_place_to_cut(name: str) -> None:
    model = build(name, classes=3, input_shape=shape_of(name), seed=0)
    example = torch.randn(2, *shape_of(name))
    children = [child for child, _ in model.named_children()]
    deep = name in ("resnet56", "resnet110", "resnet18")
    for child in children[3:-1:3] if deep else children[:-1]:
        assert split(model, child, example).method == "fx"


@pytest.mark.parametrize("name", MODELS)
def test_default_cuts_work(name: str) -> None:
    model = build(name, classes=3, input_shape=shape_of(name), seed=0)
    example = torch.randn(2, *shape_of(name))
    assert split(model, DEFAULT_CUTS[name]["one"], example).head is None
    head = split(model, DEFAULT_CUTS[name]["two"], example).head
    assert head is not None
    assert [type(module) for module in head.children()] == [nn.Linear]


def test_simple_conv_sends_64x12x12_of_a_24x24_crop() -> None:
    model = build("simple_conv", classes=10, input_shape=(3, 24, 24), seed=0)
    cut = split(model, DEFAULT_CUTS["simple_conv"]["one"], torch.randn(2, 3, 24, 24))
    assert [crossing.shape for crossing in cut.crossings] == [(64, 12, 12)]


def test_resnet18_with_the_large_stem_sends_128x4x4_after_layer2() -> None:
    model = build("resnet18", classes=10, input_shape=(3, 32, 32), seed=0, stem=7)
    cut = split(model, "layer2", torch.randn(2, 3, 32, 32))
    assert [crossing.shape for crossing in cut.crossings] == [(128, 4, 4)]


def test_option_a_shortcuts_are_strided_and_padded_with_zeros() -> None:
    from cutlayer.models.resnet import ZeroPadShortcut

    x = torch.randn(2, 4, 6, 6)
    y = ZeroPadShortcut(4, 8, 2)(x)
    assert y.shape == (2, 8, 3, 3)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert not y[:, :2].any()
    assert not y[:, 6:].any()
    option_b = build("resnet20", classes=10, input_shape=(3, 32, 32), seed=0, shortcut="B")
    assert parameters(option_b) == 269_722 + (16 * 32 + 64) + (32 * 64 + 128)


def test_the_vit_attends_between_tokens_and_knows_their_places() -> None:
    model = build("vit", classes=5, input_shape=(1, 8, 8), seed=0).eval()
    x = torch.randn(1, 1, 8, 8)
    moved = torch.cat([x[..., 4:], x[..., :4]], dim=3)
    assert not torch.allclose(model(x), model(moved))
    h = model.patches(x).detach().requires_grad_()
    model.block1(h)[0, 0].sum().backward()
    assert h.grad is not None
    assert (h.grad[0].abs().sum(1) > 0).all()


def test_attention_is_scaled_dot_product_attention() -> None:
    from cutlayer.models.vit import Attention

    attention, x = Attention(12, 3), torch.randn(2, 5, 12)
    q, k, v = attention.qkv(x).view(2, 5, 3, 3, 4).permute(2, 0, 3, 1, 4)
    expected = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 5, 12)
    assert torch.allclose(attention(x), attention.out(expected), atol=1e-6)


def test_mlp_widths_and_dropout() -> None:
    model = build("mlp", classes=4, input_shape=(5,), seed=0, hidden=[8], dropout=0.5)
    assert [name for name, _ in model.named_children()] == ["flatten", "fc1", "relu1", "dropout1", "fc2"]
    assert build("mlp", classes=4, input_shape=(5,), seed=0, hidden=[])(torch.ones(2, 5)).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("resnet19", (3, 8, 8), {}, "is not in the zoo; there are: mlp, lenet"),
        ("mlp", (4,), {"width": 3}, "has no option 'width'; it has: classes, input_shape, hidden, dropout"),
        ("mlp", (4,), {"hidden": "64"}, "hidden to be a list of widths"),
        ("mlp", (4,), {"hidden": [0]}, "every width in hidden to be a whole number of at least 1, and 0 came"),
        ("mlp", (4,), {"dropout": 1}, r"dropout to be a number in \[0, 1\)"),
        ("lenet", (1, 8, 8), {}, "at least 12x12 pixels, and the inputs are"),
        ("simple_conv", (13,), {}, "needs images"),
        ("resnet18", (3, 8, 8), {"stem": 5}, "stem to be 3 or 7, and 5 came"),
        ("resnet20", (3, 8, 8), {"shortcut": "C"}, "shortcut to be A"),
        ("vit", (3, 10, 10), {}, "multiples of patch=4, and the images are 10x10"),
        ("vit", (3, 8, 8), {"heads": 5}, "width to be a multiple of heads"),
        ("vit", (3, 8, 8), {"depth": 0}, "depth to be a whole number"),
    ],
)
def test_wrong_options_are_refused(name: str, shape: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, classes=3, input_shape=shape, seed=0, **options)


def test_importing_the_zoo_does_not_import_torch() -> None:
    code = "import sys, cutlayer.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
