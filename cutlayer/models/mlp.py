"""Multilayer perceptron: flatten, then Linear and ReLU for each hidden width, then Linear to the classes."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from cutlayer.errors import ConfigError
from cutlayer.models.checks import probability, whole


def mlp(
    classes: int, input_shape: tuple[int, ...], hidden: Sequence[int] = (64, 64), dropout: float = 0.0
) -> nn.Sequential:
    """Return an MLP from inputs (b, *input_shape) to logits (b, classes).

    Children: flatten, fc1, relu1, [dropout1,] fc2, relu2, ..., and a last fc without activation.
    """
    if not isinstance(hidden, list | tuple):
        raise ConfigError(f"model mlp needs hidden to be a list of widths such as [64, 64], and {hidden!r} came")
    probability("mlp", "dropout", dropout)
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    width = math.prod(input_shape)
    for number, next_width in enumerate(hidden, 1):
        layers[f"fc{number}"] = nn.Linear(width, whole("mlp", "every width in hidden", next_width))
        layers[f"relu{number}"] = nn.ReLU()
        if dropout:
            layers[f"dropout{number}"] = nn.Dropout(dropout)
        width = next_width
    layers[f"fc{len(hidden) + 1}"] = nn.Linear(width, classes)
    return nn.Sequential(layers)
