"""Models: a small zoo whose top level is a plain sequence of named children, so that every child is a place to cut.

Importing this package does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cutlayer.errors import ConfigError
from cutlayer.targets import call_accepted, load_target

if TYPE_CHECKING:
    from torch import nn

MODELS = {
    "mlp": "cutlayer.models.mlp:mlp",
    "lenet": "cutlayer.models.lenet:lenet",
    "simple_conv": "cutlayer.models.simple_conv:simple_conv",
    "resnet18": "cutlayer.models.resnet:resnet18",
    "resnet20": "cutlayer.models.resnet:resnet20",
    "resnet56": "cutlayer.models.resnet:resnet56",
    "resnet110": "cutlayer.models.resnet:resnet110",
    "vit": "cutlayer.models.vit:vit",
}

DEFAULT_CUTS: dict[str, dict[str, list[str]]] = {
    "mlp": {"one": ["relu1"], "two": ["relu1", "relu2"]},
    "lenet": {"one": ["pool1"], "two": ["pool1", "relu4"]},
    "simple_conv": {"one": ["norm1"], "two": ["norm1", "relu4"]},
    "resnet18": {"one": ["layer2"], "two": ["layer1", "flatten"]},
    "resnet20": {"one": ["layer1"], "two": ["layer1", "flatten"]},
    "resnet56": {"one": ["layer1"], "two": ["layer1", "flatten"]},
    "resnet110": {"one": ["layer1"], "two": ["layer1", "flatten"]},
    "vit": {"one": ["block1"], "two": ["block1", "pool"]},
}


def build(name_or_target: str, *, classes: int, input_shape: tuple[int, ...], seed: int, **options: Any) -> nn.Module:
    """Return a freshly initialised model for inputs of ``input_shape`` (without the batch) and ``classes`` outputs.

    ``name_or_target`` is a name of ``MODELS``, or "package.module:function" for your own, which is called as
    ``function(classes=..., input_shape=..., **options)`` with only what its signature accepts, and returns a module.
    Weights are a pure function of ``seed`` (any that torch draws), and torch's global random state stays as it was.
    Raises ConfigError for a wrong name, option or shape.
    """
    from torch import nn

    from cutlayer.streams import derive, preserved, start

    what = f"model {name_or_target}"
    if ":" not in name_or_target and name_or_target not in MODELS:
        raise ConfigError(
            f"model {name_or_target!r} is not in the zoo; there are: {', '.join(MODELS)}, or package.module:function "
            "for your own"
        )
    function = load_target(MODELS.get(name_or_target, name_or_target), "model")
    with preserved():
        start(derive(seed, "model"))
        model = call_accepted(function, what, {"classes": classes, "input_shape": input_shape}, options)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{what} must return a torch.nn.Module, and it returned a {type(model).__name__}")
    return model


__all__ = ["DEFAULT_CUTS", "MODELS", "build"]
