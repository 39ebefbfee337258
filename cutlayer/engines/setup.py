"""What an engine needs to run an experiment, beside the settings that all roles share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from cutlayer.cutting import SplitModel
from cutlayer.data import Dataset, Share
from cutlayer.roles.client import Augmentation
from cutlayer.store import TensorStore


@dataclass(frozen=True)
class Setup:
    """Model, data, and the choices of the experiment."""

    split: SplitModel
    dataset: Dataset
    shares: Sequence[Share]
    optimizers: Mapping[str, Mapping[str, Any]]
    auxiliary: nn.Module | None = None
    codec: Any = "fp32"
    aggregator: Mapping[str, Any] = field(default_factory=lambda: {"name": "fedavg"})
    update: Mapping[str, Any] = field(default_factory=lambda: {"every": "clients", "unit": "batches"})
    fraction: float = 1.0
    clip: float | None = None
    augment: Augmentation | None = None
    prepare: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None = None
    store: TensorStore | None = None
    run_name: str = "run"
    encoded: bool = False
    evaluation_batch: int = 512
