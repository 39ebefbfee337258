"""Residual networks (He et al. 2016, "Deep residual learning for image recognition") of basic blocks.

resnet18 is the ImageNet one of their table 1; resnet20, 56 and 110 are the CIFAR ones of their section 4.2.
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from cutlayer.errors import ConfigError
from cutlayer.models.checks import image


class ZeroPadShortcut(nn.Module):
    """Option A of the paper: every ``stride``-th pixel, with zeros in the new channels; no parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def projection_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Return option B of the paper: a 1x1 convolution and BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, and the shortcut around them: (b, in, h, w) -> (b, out, h/s, w/s)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            changed = ZeroPadShortcut if shortcut == "A" else projection_shortcut
            self.shortcut = changed(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


def _resnet(
    stem: OrderedDict[str, nn.Module], widths: list[int], blocks: int, shortcut: str, classes: int
) -> nn.Sequential:
    """Return stem, layer1, layer2, ... (each of ``blocks`` blocks, all but the first halving), avgpool, flatten, fc."""
    layers = stem.copy()
    channels = widths[0]
    for number, width in enumerate(widths, 1):
        strides = [1 if number == 1 else 2] + [1] * (blocks - 1)
        chain = []
        for stride in strides:
            chain.append(BasicBlock(channels, width, stride, shortcut))
            channels = width
        layers[f"layer{number}"] = nn.Sequential(*chain)
    layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels, classes)
    model = nn.Sequential(layers)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def resnet18(classes: int, input_shape: tuple[int, ...], stem: int = 3) -> nn.Sequential:
    """Return ResNet-18 from images (b, c, h, w) to logits (b, classes); shortcuts are option B.

    ``stem=7`` is the paper's 7x7 convolution of stride 2 and 3x3 max pooling; ``stem=3`` a 3x3 convolution of stride 1
    without pooling, usual for small images.  Children: conv1, bn1, relu, [maxpool,] layer1 .. layer4, avgpool, flatten,
    fc.
    """
    channels, _, _ = image("resnet18", input_shape)
    if stem not in (3, 7):
        raise ConfigError(f"model resnet18 needs stem to be 3 or 7, and {stem!r} came: 3 suits images below 64x64")
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(channels, 64, stem, stride=1 if stem == 3 else 2, padding=stem // 2, bias=False),
        bn1=nn.BatchNorm2d(64),
        relu=nn.ReLU(),
    )
    if stem == 7:
        layers["maxpool"] = nn.MaxPool2d(3, stride=2, padding=1)
    return _resnet(layers, [64, 128, 256, 512], 2, "B", classes)


def _cifar(name: str, depth: int, classes: int, input_shape: tuple[int, ...], shortcut: str) -> nn.Sequential:
    channels, _, _ = image(name, input_shape)
    if shortcut not in ("A", "B"):
        raise ConfigError(
            f"model {name} needs shortcut to be A (zero padding) or B (projection), and {shortcut!r} came"
        )
    stem: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(channels, 16, 3, padding=1, bias=False), bn1=nn.BatchNorm2d(16), relu=nn.ReLU()
    )
    return _resnet(stem, [16, 32, 64], (depth - 2) // 6, shortcut, classes)


def resnet20(classes: int, input_shape: tuple[int, ...], shortcut: str = "A") -> nn.Sequential:
    """Return the CIFAR ResNet of 20 layers (0.27 M parameters), 16-32-64 channels; shortcut A as in the paper, or B.

    Children: conv1, bn1, relu, layer1, layer2, layer3, avgpool, flatten, fc; the same for 56 and 110 layers.
    """
    return _cifar("resnet20", 20, classes, input_shape, shortcut)


def resnet56(classes: int, input_shape: tuple[int, ...], shortcut: str = "A") -> nn.Sequential:
    """Return the CIFAR ResNet of 56 layers (0.85 M parameters)."""
    return _cifar("resnet56", 56, classes, input_shape, shortcut)


def resnet110(classes: int, input_shape: tuple[int, ...], shortcut: str = "A") -> nn.Sequential:
    """Return the CIFAR ResNet of 110 layers (1.7 M parameters)."""
    return _cifar("resnet110", 110, classes, input_shape, shortcut)
