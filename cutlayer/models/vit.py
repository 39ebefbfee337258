"""A small vision transformer (Dosovitskiy et al. 2021): pre-normalised blocks, and the mean of tokens as summary.

Shapes: b batch, n tokens, d width, k heads, e = d/k.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutlayer.errors import ConfigError
from cutlayer.models.checks import image, probability, whole


class Patches(nn.Module):
    """Cut images (b, c, h, w) into square patches and embed each, with its position: (b, n, d)."""

    def __init__(self, channels: int, tokens: int, patch: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.position = nn.Parameter(torch.empty(1, tokens, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        tokens_bdn = self.embed(x).flatten(2)
        tokens_bnd: Tensor = tokens_bdn.transpose(1, 2) + self.position
        return tokens_bnd


class Attention(nn.Module):
    """Multi-head self-attention (b, n, d) -> (b, n, d), written out.

    The fused kernels have no second derivative on the CPU, which aligning an auxiliary model needs.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q_bkne, k_bkne, v_bkne = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        weights_bknn = (q_bkne @ k_bkne.transpose(2, 3) * q_bkne.shape[3] ** -0.5).softmax(3)
        mixed_bnd: Tensor = self.out((weights_bknn @ v_bkne).transpose(1, 2).flatten(2))
        return mixed_bnd


class Block(nn.Module):
    """One transformer block (b, n, d) -> (b, n, d): attention and a two-layer perceptron, each with its shortcut."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.dropout(self.attention(self.norm1(x)))
        z: Tensor = y + self.dropout(self.fc2(F.gelu(self.fc1(self.norm2(y)))))
        return z


class MeanTokens(nn.Module):
    """The mean over tokens: (b, n, d) -> (b, d)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def vit(
    classes: int,
    input_shape: tuple[int, ...],
    patch: int = 4,
    width: int = 64,
    depth: int = 4,
    heads: int = 4,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Return a ViT from images (b, c, h, w) to logits (b, classes); h and w must be multiples of ``patch``.

    Children: patches, block1 .. block<depth>, norm, pool, fc.
    """
    for option, value in (("patch", patch), ("width", width), ("depth", depth), ("heads", heads)):
        whole("vit", option, value)
    probability("vit", "dropout", dropout)
    channels, height, wide = image("vit", input_shape, least=patch)
    if height % patch or wide % patch:
        raise ConfigError(
            f"model vit needs height and width to be multiples of patch={patch}, and the images are {height}x{wide}: "
            "choose a patch that divides both"
        )
    if width % heads:
        raise ConfigError(f"model vit needs width to be a multiple of heads, and {width} and {heads} came")
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        patches=Patches(channels, (height // patch) * (wide // patch), patch, width)
    )
    for number in range(1, depth + 1):
        layers[f"block{number}"] = Block(width, heads, 2 * width, dropout)
    layers["norm"] = nn.LayerNorm(width)
    layers["pool"] = MeanTokens()
    layers["fc"] = nn.Linear(width, classes)
    return nn.Sequential(layers)
