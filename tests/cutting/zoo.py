"""Small models to cut, one for each thing that makes cutting hard, each with an example and another batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.down = nn.Conv2d(width_in, width, 1, stride) if stride > 1 or width_in != width else None

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.down is None else self.down(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + skip)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(BasicBlock(4, 4, 1), BasicBlock(4, 4, 1))
        self.layer2 = nn.Sequential(BasicBlock(4, 8, 2), BasicBlock(8, 8, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(self.pool(x), 1))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, dropout=0.1, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(0.1))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.norm(x)
        x = x + self.attention(y, y, y, key_padding_mask=mask, need_weights=False)[0]
        return x + self.mlp(x)


class Stack(nn.Module):
    """A transformer encoder with a class token, positions by sequence length and an optional padding mask."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, 12, 8))
        self.blocks = nn.ModuleList([Block(8) for _ in range(blocks)])
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        B, T, _ = x.shape
        x = torch.cat([self.token.expand(B, -1, -1), self.embed(x)], 1) + self.positions[:, : T + 1]
        if mask is not None:
            mask = F.pad(mask, (1, 0))
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x[:, 0])


class TorchEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True)
        self.embed = nn.Linear(6, 8)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.head(self.encoder(self.embed(x), src_key_padding_mask=mask).mean(1))


class Recurrent(nn.Module):
    """A GRU: its output and its state (batch in the second dimension) both cross."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 8, batch_first=True)
        self.again = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, state = self.gru(x)
        y, state = self.again(torch.tanh(y), state)
        return self.head(y[:, -1] + state[0])


class UNet(nn.Module):
    """Skips across every cut, and Python that looks at shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.down2 = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.MaxPool2d(2)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.up2 = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(16, 4, 3, padding=1))
        self.up1 = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(self.pool(a))
        y = self.middle(self.pool(b))
        if y.shape[-2:] != b.shape[-2:]:
            y = F.interpolate(y, size=b.shape[-2:])
        y = self.up2(torch.cat([y, b], 1))
        y = F.interpolate(y, size=a.shape[-2:])
        return self.up1(torch.cat([y, a], 1))


class Skip(nn.Module):
    """A skip across the cut, functional dropout by ``self.training``, a buffer, and an input used on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.third = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)
        self.unused = nn.Linear(2, 2)
        self.register_buffer("scale", torch.tensor(0.5))
        self.register_buffer("shift", torch.tensor(0.1), persistent=False)

    def forward(self, x: Tensor, gate: Tensor) -> dict[str, Tensor]:
        h = self.first(x)
        h = F.dropout(h, 0.3, self.training)
        y = self.second(F.relu(h)) * self.scale + h
        y = self.third(y * gate) * self.scale + self.shift
        if self.training:
            y = y + torch.sigmoid(h)
        return {"logits": self.head(F.dropout(y, 0.2, self.training)), "hidden": h}


class Graph(nn.Module):
    """Message passing: the edge index passes through, and the number of graphs is read off the data."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.second = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor, edges: Tensor, graph: Tensor) -> Tensor:
        x = torch.relu(self.first(x.index_add(0, edges[1], x[edges[0]])))
        x = torch.relu(self.norm(self.second(x.index_add(0, edges[1], x[edges[0]]))))
        out = torch.zeros(int(graph.max()) + 1, 8)
        return self.head(out.index_add(0, graph, x))


class Deciding(nn.Module):
    """Python that depends on data."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if (h.abs().sum() > 0).item():
            h = torch.tanh(h)
        h = self.second(h)
        return self.head(h if h.mean() < 1e6 else -h)


class Inplace(nn.Module):
    """The backbone starts in place, on a value that the encoder's last module needs for its own backward."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.norm(self.first(x))))


class Windows(nn.Module):
    """Reshapes by the input's own sizes on both sides of a cut where the batch is folded into another dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        w = self.first(x).view(B, H // 2, 2, W // 2, 2, C).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, C)
        return self.head(self.second(w).view(B, -1, C).mean(1))


class Named(nn.Module):
    """Keyword-only inputs, one of them a dict, and a flag that decides the kind of output."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Conv2d(3, 4, 3)
        self.text = nn.Embedding(10, 4)
        self.join = nn.Linear(8, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, *, batch: dict[str, Tensor], both: bool = False) -> Any:
        image = self.image(batch["image"]).mean((2, 3))
        text = self.text(batch["text"]).mean(1)
        h = self.join(torch.cat([image, text], 1))
        return (self.head(h), h) if both else self.head(h)


def _mask(batch: int, length: int) -> Tensor:
    return torch.arange(length) >= torch.randint(2, length, (batch, 1))


def _graph(nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(nodes, 5), torch.randint(0, nodes, (2, 3 * nodes)), torch.arange(nodes) // 2


@dataclass(frozen=True)
class Case:
    """A model, how to make a batch of it, and where to cut; ``method`` is the one that "auto" is to choose."""

    name: str
    build: Callable[[], nn.Module]
    batch: Callable[[int], Any]
    cuts: tuple[tuple[str, ...], ...]
    method: str | None = None


def _mlp() -> nn.Module:
    layers = [nn.Linear(6, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 8), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(8, 3))


CASES = (
    Case("sequential", _mlp, lambda n: torch.randn(n, 6), (("0",), ("2",), ("4",), ("1", "4"), ("0", "5")), "fx"),
    Case(
        "resnet",
        ResNet,
        lambda n: torch.randn(n, 3, 8, 8),
        (("conv1",), ("layer1",), ("layer1.0",), ("layer2.0.conv1",), ("layer1", "layer2"), ("bn1", "layer2.0.bn1")),
        "fx",
    ),
    Case(
        "stack",
        Stack,
        lambda n: torch.randn(n, 7, 6),
        (("embed",), ("blocks.0",), ("blocks",), ("blocks.0", "blocks.1"), ("embed", "blocks.2")),
        "fx",
    ),
    Case(
        "stack-mask",
        Stack,
        lambda n: (torch.randn(n, 7, 6), _mask(n, 7)),
        (("blocks.0",), ("blocks.1.norm",), ("blocks.0", "blocks.1")),
        None,
    ),
    Case("torch-encoder", TorchEncoder, lambda n: torch.randn(n, 7, 6), (("embed",), ("encoder",)), "fx"),
    Case(
        "torch-encoder-mask",
        TorchEncoder,
        lambda n: (torch.randn(n, 7, 6), _mask(n, 7)),
        (("embed",), ("encoder.layers.0",), ("encoder.layers.0", "encoder.layers.1")),
        None,
    ),
    Case("gru", Recurrent, lambda n: torch.randn(n, 5, 6), (("gru",), ("again",), ("gru", "again")), "fx"),
    Case(
        "unet",
        UNet,
        lambda n: torch.randn(n, 3, 8, 8),
        (("down1",), ("down2",), ("middle",), ("down1", "up2")),
        "children",
    ),
    Case(
        "skip",
        Skip,
        lambda n: {"x": torch.randn(n, 6), "gate": torch.rand(n, 6)},
        (("first",), ("second",), ("first", "second"), ("second", "third")),
        "fx",
    ),
    Case("graph", Graph, lambda n: _graph(2 * n), (("first",), ("second",), ("first", "norm")), "children"),
    Case("deciding", Deciding, lambda n: torch.randn(n, 6), (("first",), ("second",), ("first", "second")), "children"),
    Case("inplace", Inplace, lambda n: torch.randn(n, 6), (("first",), ("norm",), ("norm", "relu")), "fx"),
    Case("windows", Windows, lambda n: torch.randn(n, 4, 4, 4), (("first",), ("second",), ("first", "second")), "fx"),
    Case(
        "named",
        Named,
        lambda n: {"batch": {"image": torch.randn(n, 3, 5, 5), "text": torch.randint(0, 10, (n, 4))}, "both": True},
        (("image",), ("text",), ("join",), ("image", "join")),
        "fx",
    ),
)
