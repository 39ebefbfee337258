"""Auxiliary models: a small network at the client that stands in for the backbone.

An auxiliary model takes what crosses the cut, ``auxiliary(*as_tuple(h))``, and returns logits (b, classes).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cutlayer.cutting import as_tuple, split
from cutlayer.errors import ConfigError, CutError
from cutlayer.models.checks import whole
from cutlayer.streams import derive as derive_seed
from cutlayer.streams import preserved, start
from cutlayer.targets import call_accepted, load_target

KINDS: dict[str, tuple[str, ...]] = {  # every kind with its options
    "linear": ("pool",),
    "stages": ("stages", "upto", "pool"),
    "backbone": (),
}


class PooledLinear(nn.Module):
    """Pool the largest floating tensor that crosses the cut, and map it to logits (b, classes) with one linear layer.

    Images (b, c, h, w) are averaged to ``pool`` x ``pool`` pixels, sequences (b, n, d) over their n tokens, vectors are
    taken as they are; ``pool=0`` takes every value of images and sequences too.
    """

    def __init__(self, example: Any, classes: int, pool: int = 1) -> None:
        super().__init__()
        sizes = [
            tensor.numel() if isinstance(tensor, Tensor) and tensor.is_floating_point() else 0
            for tensor in as_tuple(example)
        ]
        if not any(sizes):
            raise ConfigError(
                "an auxiliary model of kind linear needs a floating-point tensor at the cut, and none crosses it: give "
                "your own as package.module:function"
            )
        self.which = sizes.index(max(sizes))
        self.pool = pool
        features = self.features(*as_tuple(example)).shape[1]
        self.fc = nn.Linear(features, classes)

    def features(self, *crossing: Any) -> Tensor:
        """Return the pooled tensor, (b, features)."""
        h: Tensor = crossing[self.which]
        if self.pool and h.dim() == 4:
            h = nn.functional.adaptive_avg_pool2d(h, self.pool)
        elif self.pool and h.dim() == 3:
            h = h.mean(1)
        return h.flatten(1)

    def forward(self, *crossing: Any) -> Tensor:
        logits: Tensor = self.fc(self.features(*crossing))
        return logits


class Stages(nn.Module):
    """The first stages of a backbone, then ``head`` on what leaves them."""

    def __init__(self, stages: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.stages = stages
        self.head = head

    def forward(self, *crossing: Any) -> Tensor:
        logits: Tensor = self.head(*as_tuple(self.stages(*crossing)))
        return logits


def derive(kind: str, backbone: nn.Module, example: Any, classes: int, *, seed: int = 0, **options: Any) -> nn.Module:
    """Return an auxiliary model for what ``example`` shows to cross the cut (one value or a tuple, batch first).

    - linear(pool=1): pooling and a linear layer (``PooledLinear``).
    - stages(stages=1, upto=None, pool=1): the backbone's first children with fresh weights, then linear.  ``upto`` is
      the last child to copy; otherwise it is the ``stages``-th child with parameters, or the last of the children
      without parameters that follow it, short of pooling to one pixel and flattening.
    - backbone: a full copy, weights included.
    - "package.module:function", called with those of classes, input_shape (of the largest crossing tensor, without the
      batch), example and backbone that it accepts, and all ``options``.

    Fresh weights are a pure function of ``seed``; global random state and ``backbone`` stay as they were.  A parameter
    whose module has no ``reset_parameters`` keeps a copy of its value.  Raises ConfigError.
    """
    known = KINDS.get(kind)
    if known is None and ":" not in kind:
        raise ConfigError(
            f"auxiliary {kind!r} is not a kind; there are: {', '.join(KINDS)}, or package.module:function for your own"
        )
    for option in options:
        if known is not None and option not in known:
            raise ConfigError(f"auxiliary {kind} has no option {option!r}; it has: {', '.join(known) or 'none'}")
    pool = whole(f"auxiliary {kind}", "pool", options.get("pool", 1), least=0) if known is not None else 1
    with preserved():
        start(derive_seed(seed, "auxiliary"))
        if kind == "linear":
            model: Any = PooledLinear(example, classes, pool)
        elif kind == "stages":
            model = _stages(backbone, example, classes, options.get("stages", 1), options.get("upto"), pool)
        elif kind == "backbone":
            model = copy.deepcopy(backbone)
        else:
            offered = {"classes": classes, "input_shape": _shape(example), "example": example, "backbone": backbone}
            model = call_accepted(load_target(kind, "auxiliary"), f"auxiliary {kind}", offered, options)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"auxiliary {kind} must be a torch.nn.Module, and it is a {type(model).__name__}")
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def _shape(example: Any) -> tuple[int, ...]:
    tensors = [value for value in as_tuple(example) if isinstance(value, Tensor)]
    return tuple(max(tensors, key=lambda tensor: tensor.numel()).shape[1:])


def _stages(backbone: nn.Module, example: Any, classes: int, count: Any, upto: Any, pool: int) -> nn.Module:
    children = [name for name, _ in backbone.named_children()]
    if upto is None:
        upto = _last_of(list(backbone.named_children()), whole("auxiliary stages", "stages", count))
    elif upto not in dict(backbone.named_modules()):
        raise ConfigError(
            f"auxiliary stages needs upto to be a child of the backbone, and {upto!r} came; it has: "
            f"{', '.join(children)}"
        )
    fresh = copy.deepcopy(backbone)
    try:
        stages: nn.Module = fresh if upto == children[-1] else split(fresh, upto, as_tuple(example)).encoder
    except CutError as error:
        raise ConfigError(
            f"auxiliary stages cannot copy the backbone up to {upto!r} ({error}): choose another child with upto, or "
            "kind linear"
        ) from error
    for module in stages.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    stages.train(backbone.training)
    with torch.no_grad():
        probe = copy.deepcopy(stages).eval()(*as_tuple(example))
    return Stages(stages, PooledLinear(probe, classes, pool))


def _last_of(children: list[tuple[str, nn.Module]], count: int) -> str:
    """Return the name of the last child of the first ``count`` stages."""
    last, seen = "", 0
    for name, child in _before_flatten(children):
        seen += any(True for _ in child.parameters())
        if seen > count:
            break
        if seen:
            last = name
    if seen < count or not last:
        raise ConfigError(
            f"auxiliary stages needs a backbone with {count} children that hold parameters before it flattens, and it "
            f"has {seen} ({', '.join(name for name, _ in children)}): ask for fewer stages, name one with upto, or use "
            "linear"
        )
    return last


def _before_flatten(children: list[tuple[str, nn.Module]]) -> Iterator[tuple[str, nn.Module]]:
    seen = False
    for name, child in children:
        if seen and isinstance(child, nn.Flatten | nn.AdaptiveAvgPool2d):
            return
        seen = seen or any(True for _ in child.parameters())
        yield name, child
