"""What the local engine needs to run an experiment: the blueprint, all data, and where records go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cutlayer.data import Dataset, Share
from cutlayer.roles.assembly import Blueprint
from cutlayer.store import TensorStore


@dataclass(frozen=True, kw_only=True)
class Setup(Blueprint):
    """A blueprint with all data."""

    dataset: Dataset
    shares: Sequence[Share]
    store: TensorStore | None = None
    run_name: str = "run"
    encoded: bool = False
    paces: Mapping[int, float] = field(default_factory=dict)
    """Virtual seconds a sample, by client, where the order of arrival is simulated."""
