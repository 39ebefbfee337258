"""A model of one's own, with a skip connection: cut inside it, two tensors cross.

Try it:

    cutlayer inspect examples.skip_net:skip_net --input 1x8x8
    cutlayer run algorithm=vanilla model=examples.skip_net:skip_net cuts=low
"""

import torch
from torch import Tensor, nn


class SkipNet(nn.Module):
    """Convolutions, and a path around the two in the middle: images (b, c, h, w) to logits (b, classes)."""

    def __init__(self, classes: int, channels: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.low = nn.Conv2d(width, width, 3, padding=1)
        self.high = nn.Conv2d(width, width, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        around = torch.relu(self.stem(x))
        through = self.high(torch.relu(self.low(around)))
        logits: Tensor = self.fc(self.pool(torch.relu(around + through)).flatten(1))
        return logits


def skip_net(classes: int, input_shape: tuple[int, ...], width: int = 16) -> SkipNet:
    """Return the model for images of ``input_shape``; ``width`` can be given as ``model.width``."""
    return SkipNet(classes, input_shape[0], width)
