"""What a server without data knows of it: samples that are made up in the form that all clients reported."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cutlayer.config import Experiment
from cutlayer.data import Dataset
from cutlayer.engines.prepare import EXAMPLE, Outline, outline_of
from cutlayer.errors import DataError
from cutlayer.services.protocol import Example, InputSpec


def made_up(example: Example) -> Outline:
    """Return samples of the form of ``example``: floats drawn at a fixed seed, whole numbers 1."""
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(_tensor(spec, generator) for spec in example.inputs)
    shape = tuple(int(length) for length in example.inputs[0].shape)
    return Outline(inputs, None, shape, example.classes, "of the clients")


def reported(dataset: Dataset, experiment: Experiment) -> tuple[list[InputSpec], Outline]:
    """Return the form of a data set as the model sees it, and its outline.  Raises DataError where it has none."""
    outline = outline_of(dataset, experiment)
    specs = []
    for value in outline.inputs:
        if not isinstance(value, Tensor):
            raise DataError(f"services need tensors as inputs, and the data gives a {type(value).__name__}; convert it")
        specs.append(InputSpec(shape=tuple(value.shape[1:]), dtype=str(value.dtype).removeprefix("torch.")))
    return specs, outline


def _tensor(spec: InputSpec, generator: torch.Generator) -> Tensor:
    dtype: Any = getattr(torch, spec.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise DataError(f"expected the name of a torch dtype from the clients, got {spec.dtype!r}")
    shape = (EXAMPLE, *(int(length) for length in spec.shape))
    if dtype.is_floating_point:
        return torch.rand(shape, generator=generator).to(dtype)
    return torch.ones(shape, dtype=dtype)
