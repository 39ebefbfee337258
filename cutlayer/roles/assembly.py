"""From what all parties of a run agree on to the roles themselves: the same parts, whoever builds them, and where."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from cutlayer.codecs import parse
from cutlayer.cutting import SplitModel
from cutlayer.data import Samples
from cutlayer.roles import feedback
from cutlayer.roles.alignment import Aligner
from cutlayer.roles.client import Augmentation, Client
from cutlayer.roles.federated import FederatedServer, Inbox
from cutlayer.roles.graphs import GraphCache
from cutlayer.roles.part import Part
from cutlayer.roles.settings import Settings
from cutlayer.roles.split_server import SplitServer
from cutlayer.roles.window import Window
from cutlayer.store import ForwardRecords, TensorStore

ENCODER, BACKBONE, HEAD, AUXILIARY = "encoder", "backbone", "head", "auxiliary"


@dataclass(frozen=True)
class Blueprint:
    """What all parties of a run agree on beside the :class:`Settings`: the cut model and how its parts are trained."""

    split: SplitModel
    optimizers: Mapping[str, Mapping[str, Any]]
    auxiliary: nn.Module | None = None
    codec: Any = "fp32"
    aggregator: Mapping[str, Any] = field(default_factory=lambda: {"name": "fedavg"})
    update: Mapping[str, Any] = field(default_factory=lambda: {"every": "clients", "unit": "batches"})
    fraction: float = 1.0
    clip: float | None = None
    augment: Augmentation | None = None
    prepare: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None = None
    evaluation_batch: int = 512


class Assembly:
    """Makes roles.  ``first`` are the parts that all of them start from, by name."""

    def __init__(self, blueprint: Blueprint, settings: Settings) -> None:
        self.blueprint, self.settings, self.recipe = blueprint, settings, settings.recipe
        self.channel = parse(blueprint.codec)
        modules: dict[str, nn.Module] = dict(blueprint.split.copy().parts)
        if self.recipe.local_loss and blueprint.auxiliary is not None:
            modules[AUXILIARY] = blueprint.auxiliary
        self.first = {name: self._part(name, module) for name, module in modules.items()}

    def _part(self, name: str, module: nn.Module) -> Part:
        role = {BACKBONE: "client" if self.recipe.whole else "server", AUXILIARY: "auxiliary"}.get(name, "client")
        spec = self.blueprint.optimizers[role]
        return Part(name, module.to(self.settings.device), spec, clip=self.blueprint.clip)

    @property
    def held(self) -> tuple[str, ...]:
        """The parts that a client holds."""
        return self.recipe.client_parts(self.settings.parts)

    @property
    def shared(self) -> tuple[str, ...]:
        """The parts of a client that are averaged every round."""
        return tuple(p for p in self.held if p in self.recipe.averaged)

    @property
    def averages_backbones(self) -> bool:
        """Every client's copy of the backbone is averaged every round."""
        return self.recipe.server == "per_client" and BACKBONE in self.recipe.averaged

    @property
    def personal(self) -> tuple[str, ...]:
        """The parts of which every client ends a round with its own."""
        if self.recipe.pooled or self.recipe.schedule == "relay":
            return ()
        held = [p for p in self.held if p != AUXILIARY]
        if self.recipe.feedback == "none":
            held.remove(ENCODER)
        if self.recipe.server == "per_client":
            held.append(BACKBONE)
        return tuple(p for p in held if p not in self.recipe.averaged)

    def client(self, number: int, samples: Samples) -> Client:
        """Return client ``number`` with its samples and parts of its own."""
        client = Client(
            number,
            samples,
            {name: self.first[name].copy() for name in self.held},
            self.settings,
            self.channel,
            feedback.of(self.recipe),
            self.blueprint.augment,
        )
        if self.recipe.feedback == "none":  # frozen: no statistics move and nothing is dropped
            client.parts[ENCODER].module.eval()
        return client

    def server(
        self, store: TensorStore, run: str, window: Window | None = None, graphs: GraphCache | None = None
    ) -> SplitServer:
        """Return a split server whose records are in ``store``."""
        aligner = Aligner(self.first[AUXILIARY], self.settings) if self.recipe.feedback == "estimated" else None
        records = ForwardRecords(store, run)
        backbone = self.first[BACKBONE].copy()
        return SplitServer(backbone, self.settings, self.channel, records, window, aligner, graphs)

    def federated(self, names: Sequence[str], inbox: Inbox | None = None) -> FederatedServer:
        """Return a federated server for the parts ``names``."""
        parts = {name: self.first[name].read() for name in names}
        buffers = {name: {k for k, _ in self.first[name].module.named_buffers()} for name in names}
        return FederatedServer(parts, self.blueprint.aggregator, buffers, inbox)
