"""What may come over the cut: checked before it is written or used, because what is written will be replayed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cutlayer import step
from cutlayer.cutting import Crossing
from cutlayer.errors import TrainingError, WireError
from cutlayer.roles import crossing
from cutlayer.roles.assembly import Assembly
from cutlayer.roles.split_server import key_of, samples_of
from cutlayer.wire import Message


class Admission:
    """Knows the form of every message to the split server of one run.

    ``classes`` is the number of classes; labels below 0 mark what does not count.
    """

    def __init__(self, assembly: Assembly, classes: int) -> None:
        split = assembly.blueprint.split
        self._assembly, self._settings, self._classes = assembly, assembly.settings, classes
        self._h = [c for c in split.crossings if c.cut == split.cuts[0]]
        self._z = [c for c in split.crossings if len(split.cuts) > 1 and c.cut == split.cuts[1]]

    def check(self, request: Message) -> None:
        """Raise WireError for a request of the wrong form, TrainingError for values that are not finite."""
        key, samples = key_of(request), samples_of(request)
        backward = request.kind == "backward"
        prefix, content = ("d", "output_gradients") if backward else ("h", "activations")
        labelled = request.kind in ("train", "upload")
        others = request.meta.get("values", {})
        if not isinstance(others, dict):
            raise WireError(f"expected numbers by name as 'values', got {type(others).__name__}")
        for name in [*request.tensors, *others]:
            named = name.startswith(prefix) or (labelled and name == "y" and name not in others)
            if not named or (name in others and name in request.tensors):
                raise WireError(f"a {request.kind!r} request has no {name[:80]!r} there")
        values = crossing.unpack(
            prefix, request.tensors, others, self._assembly.channel, content, key, self._settings.batch_seed(key)
        )
        self._check_values(request.kind, values, self._z if backward else self._h, samples, partial=backward)
        if labelled:
            self._check_labels(request, samples)

    def check_evaluation(self, values: step.Values, samples: int) -> None:
        """Raise as :meth:`check` does, for activations that are only to be scored."""
        self._check_values("evaluate", values, self._h, samples, partial=False)

    def _check_values(
        self, kind: str, values: step.Values, expected: list[Crossing], samples: int, *, partial: bool
    ) -> None:
        if len(values) > len(expected) or (len(values) < len(expected) and not partial):
            raise WireError(f"a {kind!r} request carries {len(expected)} values over the cut, and {len(values)} came")
        if expected and not any(isinstance(value, Tensor) for value in values):
            raise WireError(f"a {kind!r} request carries tensors over the cut, and none came")
        for value, form in zip(values, expected, strict=False):
            if value is None and partial:
                continue
            if isinstance(value, Tensor):
                self._check_tensor(kind, value, form, samples)
            elif form.dtype not in ("int", "float") or isinstance(value, bool) or not isinstance(value, int | float):
                raise WireError(f"{form.name} should be {form.dtype} in a {kind!r} request, got {type(value).__name__}")

    def _check_tensor(self, kind: str, value: Tensor, form: Crossing, samples: int) -> None:
        dtype = str(value.dtype).removeprefix("torch.")
        cast = str(self._settings.autocast).removeprefix("torch.") if self._settings.autocast is not None else ""
        if dtype != form.dtype and not (cast == dtype and form.dtype.startswith("float")):
            raise WireError(f"{form.name} should be {form.dtype} in a {kind!r} request, got {dtype}")
        if form.batch_dim is None:
            if value.ndim != len(form.shape):
                raise WireError(f"{form.name} should have {len(form.shape)} dims, got {tuple(value.shape)}")
        else:
            shape = list(form.shape)
            shape.insert(form.batch_dim, samples)
            if list(value.shape) != shape:
                raise WireError(f"{form.name} should have shape {tuple(shape)}, got {tuple(value.shape)}")
        if value.is_floating_point() and not _finite(value):
            raise TrainingError(
                f"{form.name} in a {kind!r} request is not finite; lower the client's learning rate or clip gradients"
            )

    def _check_labels(self, request: Message, samples: int) -> None:
        y = request.tensors.get("y")
        if y is None:
            raise WireError(f"expected labels 'y' in a {request.kind!r} request")
        if y.dtype is not torch.int64 or not y.ndim or len(y) != samples:
            got = f"{y.dtype} {tuple(y.shape)}"
            raise WireError(f"labels should be int64 with {samples} rows in a {request.kind!r} request, got {got}")
        if y.numel() and int(y.max()) >= self._classes:
            raise WireError(f"labels should be below {self._classes}, got {int(y.max())}")
        if y.numel() and int(y.min()) < 0 and y.ndim == 1:
            raise WireError(f"labels should be at least 0, got {int(y.min())}")


def _finite(value: Tensor) -> bool:
    """Say whether all of ``value`` is finite: its sum is only if all is, and takes a sixth of the time to tell."""
    return math.isfinite(value.sum()) or bool(torch.isfinite(value).all())


def evaluation(values: step.Values, samples: int) -> Message:
    """Return the request to score activations."""
    tensors, others = crossing.named("h", values)
    meta: dict[str, Any] = {"samples": samples}
    return Message("evaluate", tensors, {**meta, "values": others} if others else meta)
