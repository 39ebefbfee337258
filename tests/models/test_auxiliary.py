"""Auxiliary models, derived and given."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cutlayer.cutting import SplitModel, as_tuple, split
from cutlayer.errors import ConfigError
from cutlayer.models import DEFAULT_CUTS, build
from cutlayer.models.auxiliary import derive

MODELS = {"mlp": (1, 8, 8), "simple_conv": (3, 12, 12), "resnet20": (3, 8, 8), "vit": (1, 8, 8)}


def cut(name: str) -> tuple[SplitModel, Any]:
    model = build(name, classes=5, input_shape=MODELS[name], seed=0)
    x = torch.randn(4, *MODELS[name], generator=torch.Generator().manual_seed(0))
    halves = split(model, DEFAULT_CUTS[name]["one"], x)
    return halves, halves.encoder(x).detach()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["linear", "stages", "backbone"])
def test_every_kind_gives_logits_and_a_second_derivative(name: str, kind: str) -> None:
    halves, h = cut(name)
    auxiliary = derive(kind, halves.backbone, h, 5, seed=1)
    h.requires_grad_()
    loss = nn.functional.cross_entropy(auxiliary(*as_tuple(h)), torch.arange(4))
    (estimate,) = torch.autograd.grad(loss, h, create_graph=True)
    estimate.square().sum().backward()
    assert auxiliary(*as_tuple(h)).shape == (4, 5)
    assert any(p.grad is not None and bool(p.grad.any()) for p in auxiliary.parameters())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["linear", "stages"])
def test_fresh_weights_belong_to_the_seed(name: str, kind: str) -> None:
    halves, h = cut(name)
    state = torch.get_rng_state()
    before = {key: value.clone() for key, value in halves.state_dict().items()}

    def weights(seed: int) -> list[Tensor]:
        return list(derive(kind, halves.backbone, h, 5, seed=seed).state_dict().values())

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in halves.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
def test_a_copy_of_the_backbone_starts_equal_and_is_independent(name: str) -> None:
    halves, h = cut(name)
    auxiliary = derive("backbone", halves.backbone, h, 5)
    halves.eval()
    auxiliary.eval()
    assert torch.equal(auxiliary(h), halves.backbone(h))
    with torch.no_grad():
        for parameter in auxiliary.parameters():
            parameter.zero_()
    assert any(bool(parameter.any()) for parameter in halves.backbone.parameters())


def children(auxiliary: nn.Module) -> list[str]:
    return [name for name, _ in auxiliary.get_submodule("stages").named_children()]


def test_stages_are_the_first_children_of_the_backbone() -> None:
    halves, h = cut("simple_conv")
    assert children(derive("stages", halves.backbone, h, 5)) == ["conv2", "relu2", "norm2", "pool2"]
    assert children(derive("stages", halves.backbone, h, 5, upto="relu2")) == ["conv2", "relu2"]
    halves, h = cut("resnet20")
    assert children(derive("stages", halves.backbone, h, 5)) == ["layer2"]
    assert children(derive("stages", halves.backbone, h, 5, stages=2)) == ["layer2", "layer3"]
    halves, h = cut("mlp")
    assert children(derive("stages", halves.backbone, h, 5)) == ["fc2", "relu2"]
    assert children(derive("stages", halves.backbone, h, 5, upto="fc3")) == ["fc2", "relu2", "fc3"]


@pytest.mark.parametrize("name", MODELS)
def test_stages_do_not_start_from_the_servers_weights(name: str) -> None:
    halves, h = cut(name)
    server = halves.backbone.state_dict()
    one, two = (derive("stages", halves.backbone, h, 5, seed=seed).get_submodule("stages") for seed in (0, 1))
    compared = 0
    for (key, value), other in zip(one.named_parameters(), two.parameters(), strict=True):
        if value.dim() > 1:  # biases and normalisation start as constants
            assert not torch.equal(value, server[key])
            assert not torch.equal(value, other)
            compared += 1
    assert compared


def test_the_published_auxiliary_model_of_resnet18_is_layer3_pool_and_fc() -> None:
    model = build("resnet18", classes=10, input_shape=(3, 32, 32), seed=0, stem=7)
    x = torch.randn(2, 3, 32, 32)
    halves = split(model, "layer2", x)
    auxiliary = derive("stages", halves.backbone, halves.encoder(x), 10)
    size = 4 * sum(p.numel() for p in auxiliary.parameters())
    assert size == 4 * (sum(p.numel() for p in model.layer3.parameters()) + 256 * 10 + 10)
    assert 8.0e6 < size < 8.5e6


def features(auxiliary: nn.Module) -> int:
    linear = auxiliary.get_submodule("fc")
    assert isinstance(linear, nn.Linear)
    return linear.in_features


def test_linear_pools_images_and_tokens() -> None:
    backbone = nn.Identity()
    image, tokens, vector = torch.randn(2, 3, 4, 4), torch.randn(2, 7, 6), torch.randn(2, 9)
    assert features(derive("linear", backbone, image, 5)) == 3
    assert features(derive("linear", backbone, image, 5, pool=2)) == 12
    assert features(derive("linear", backbone, image, 5, pool=0)) == 48
    assert features(derive("linear", backbone, tokens, 5)) == 6
    assert features(derive("linear", backbone, tokens, 5, pool=0)) == 42
    assert features(derive("linear", backbone, vector, 5)) == 9


def test_linear_reads_the_largest_floating_tensor_that_crosses() -> None:
    crossing = (torch.zeros(2, 50, dtype=torch.int64), torch.randn(2, 3), torch.randn(2, 8), 2)
    auxiliary = derive("linear", nn.Identity(), crossing, 5)
    assert features(auxiliary) == 8
    assert torch.equal(auxiliary(*crossing), auxiliary(crossing[0] + 1, crossing[1] + 1, crossing[2], 9))


CODE = """
from torch import nn

def small(classes, input_shape, width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0], width), nn.Linear(width, classes))

def of_backbone(backbone):
    return nn.Sequential(backbone)

def wrong():
    return "no"
"""


def test_a_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_auxiliary.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    halves, h = cut("mlp")
    auxiliary = derive("my_auxiliary:small", halves.backbone, h, 5, width=3)
    assert auxiliary(h).shape == (4, 5)
    assert derive("my_auxiliary:of_backbone", halves.backbone, h, 5)(h).shape == (4, 5)
    with pytest.raises(ConfigError, match=r"must be a torch\.nn\.Module, and it is a str"):
        derive("my_auxiliary:wrong", halves.backbone, h, 5)
    with pytest.raises(ConfigError, match="has no option 'depth'"):
        derive("my_auxiliary:small", halves.backbone, h, 5, depth=3)
    sys.modules.pop("my_auxiliary")


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("linaer", {}, "there are: linear, stages, backbone"),
        ("linear", {"upto": "x"}, "auxiliary linear has no option 'upto'; it has: pool"),
        ("linear", {"pool": -1}, "pool to be a whole number of at least 0"),
        ("backbone", {"pool": 1}, "has no option 'pool'; it has: none"),
        ("stages", {"stages": 0}, "stages to be a whole number of at least 1"),
        ("stages", {"stages": 5}, "backbone with 5 children that hold parameters"),
        ("stages", {"upto": "layer9"}, "'layer9' came; it has: fc2, relu2, fc3"),
    ],
)
def test_wrong_options_are_refused(kind: str, options: dict[str, Any], message: str) -> None:
    halves, h = cut("mlp")
    with pytest.raises(ConfigError, match=message):
        derive(kind, halves.backbone, h, 5, **options)


def test_linear_needs_a_floating_tensor() -> None:
    with pytest.raises(ConfigError, match="none crosses it"):
        derive("linear", nn.Identity(), torch.zeros(2, 3, dtype=torch.int64), 5)
