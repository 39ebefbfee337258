"""The table of algorithms: each one a choice on seven axes, and no training loop of its own.

    labels     who holds them              server · client (U-shape)
    server     copies of the backbone      shared · per_client · none (the whole model is at the client)
    step       when the backbone steps     batch · window (every K batches or samples, or once a round) · joined (one
                                           step on all clients' batches, concatenated)
    feedback   what moves the encoder      cut_gradient · averaged_cut_gradient · auxiliary · estimated · none
                                           (frozen) · whole_model; or a generator function of your own
                                           (see roles/feedback.py)
    upload_every                           every batch (1) or every q-th
    schedule   who works when              relay (one client after another, weights handed on) · sequential (one
                                           after another in random order, from the same weights) · interleaved
                                           (batch by batch) · asynchronous (as batches come, and nobody waits)
    averaged   parts averaged each round   of encoder, head, auxiliary, backbone

Sources and traps are in each recipe's docstring field ``source``.  A new algorithm is a ``Recipe(...)`` in a file of
yours: ``cutlayer run algorithm=my_module:my_recipe``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from math import inf
from typing import Any, Literal, get_args, get_type_hints

from cutlayer.errors import ConfigError
from cutlayer.targets import load_object

Labels = Literal["server", "client"]
Server = Literal["shared", "per_client", "none"]
Step = Literal["batch", "window", "joined"]
Feedback = Literal["cut_gradient", "averaged_cut_gradient", "auxiliary", "estimated", "none", "whole_model"]
Schedule = Literal["relay", "sequential", "interleaved", "asynchronous"]
PartName = Literal["encoder", "backbone", "head", "auxiliary"]


@dataclass(frozen=True)
class Recipe:
    """An algorithm as a choice on the axes; ``source`` names the paper, ``summary`` says it in a line."""

    name: str
    labels: Labels = "server"
    server: Server = "shared"
    step: Step = "batch"
    feedback: Feedback | Callable[..., Any] = "cut_gradient"
    upload_every: int = 1
    schedule: Schedule = "interleaved"
    averaged: tuple[PartName, ...] = ()
    pooled: bool = False
    """All data in one place: the bound that every table needs."""
    durable: bool = False
    """Records, gradients and weight versions go through the experiment's store."""
    align_every: int = 10
    align_epochs: int = 100
    align_batch: int = 1000
    buffer: int = 1000
    """FSL-SAGE: alignment period in rounds (the first is after round 1: until then the auxiliary is a random guess),
    epochs and batch of an alignment, newest samples kept per client."""
    mixing: float = 0.6
    staleness: int = 4
    staleness_power: float = 0.5
    """Asynchronous: how much of a client's parts goes into the global ones; after how many times around (as many
    updates of others as clients are at work) an update counts no more; a in (1 + updates since)^-a, by which it counts
    less (FedAsync, arXiv 1903.03934)."""
    source: str = ""
    summary: str = ""

    def __post_init__(self) -> None:
        frozen = ("encoder",) if self.feedback == "none" else ()
        object.__setattr__(self, "averaged", tuple(part for part in self.averaged if part not in frozen))
        hints = get_type_hints(Recipe)
        for axis in ("labels", "server", "step", "schedule"):
            _choice(self.name, axis, getattr(self, axis), get_args(hints[axis]))
        if not callable(self.feedback):
            _choice(self.name, "feedback", self.feedback, get_args(Feedback))
        for part in self.averaged:
            _choice(self.name, "averaged", part, get_args(PartName))
        for count in ("upload_every", "align_every", "align_epochs", "align_batch", "buffer", "staleness"):
            value = getattr(self, count)
            if type(value) is not int or value < 1:
                raise ConfigError(f"algorithm {self.name}: {count} must be a whole number of at least 1, got {value!r}")
        for name, value, most in (("mixing", self.mixing, 1.0), ("staleness_power", self.staleness_power, inf)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
                limits = "0 and 1" if most == 1 else "0 and infinity"
                raise ConfigError(f"algorithm {self.name}: {name} must be a number between {limits}, got {value!r}")
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        grouped = self.step == "joined" or self.feedback == "averaged_cut_gradient"
        rules = [
            (grouped and self.schedule != "interleaved", "joining or averaging needs schedule=interleaved"),
            (grouped and self.labels == "client", "joining or averaging needs labels=server"),
            (self.step == "window" and self.server != "shared", "step=window needs server=shared"),
            (self.step == "joined" and self.server != "shared", "step=joined needs server=shared"),
            (self.step == "window" and self.local_loss, "step=window needs cut gradients or feedback=none"),
            (self.step == "window" and self.schedule == "relay", "step=window needs a schedule other than relay"),
            (self.local_loss and self.labels == "client", "a local loss needs labels=server: (h, y) is uploaded"),
            (self.upload_every > 1 and not self.local_loss, "upload_every > 1 needs feedback=auxiliary or estimated"),
            (self.whole != (self.server == "none"), "feedback=whole_model and server=none go together"),
            (self.asynchronous and self.labels == "client", "schedule=asynchronous needs labels=server"),
            (
                self.asynchronous
                and (self.step, self.feedback, self.averaged) != ("window", "cut_gradient", ("encoder",)),
                "schedule=asynchronous needs step=window, feedback=cut_gradient and averaged=[encoder]",
            ),
            (self.whole and self.schedule == "relay", "feedback=whole_model needs a schedule other than relay"),
            (self.server == "per_client" and self.schedule == "relay", "server=per_client rules out schedule=relay"),
            ("auxiliary" in self.averaged and self.feedback != "auxiliary", "only feedback=auxiliary averages them"),
            (
                "backbone" in self.averaged and self.server == "shared",
                "a shared backbone is one already: leave backbone out of averaged",
            ),
        ]
        for broken, rule in rules:
            if broken:
                raise ConfigError(f"algorithm {self.name} contradicts itself: {rule}")

    @property
    def whole(self) -> bool:
        """The client holds the whole model and talks to no split server."""
        return self.feedback == "whole_model"

    @property
    def local_loss(self) -> bool:
        """The encoder learns from an auxiliary model at the client."""
        return self.feedback in ("auxiliary", "estimated")

    @property
    def asynchronous(self) -> bool:
        """Nobody waits for anybody: the order is that in which batches and updates come."""
        return self.schedule == "asynchronous"

    @property
    def grouped(self) -> bool:
        """The server waits for one request of every client before it answers any."""
        return self.step == "joined" or self.feedback == "averaged_cut_gradient"

    def client_parts(self, parts: tuple[str, ...]) -> tuple[str, ...]:
        """Which of the model's ``parts`` (in order) a client holds, the auxiliary last."""
        if self.whole:
            return parts
        here = [p for p in parts if p == "encoder" or (p == "head" and self.labels == "client")]
        return (*here, "auxiliary") if self.local_loss else tuple(here)


def _choice(name: str, axis: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"algorithm {name}: {axis} must be one of {', '.join(allowed)}, got {value!r}")


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("centralized", server="none", feedback="whole_model", schedule="sequential", pooled=True,
               source="ordinary training", summary="all data in one place: the upper bound"),
        Recipe("local", server="none", feedback="whole_model", schedule="sequential",
               source="ordinary training", summary="every client alone: the lower bound"),
        Recipe("fedavg", server="none", feedback="whole_model", schedule="sequential",
               averaged=("encoder", "backbone", "head"), source="McMahan et al. 2016, arXiv 1602.05629",
               summary="whole model at the client, averaged each round"),
        Recipe("vanilla", schedule="relay", source="Gupta & Raskar 2018, arXiv 1810.06060",
               summary="clients one after another, encoder handed on, labels at the server"),
        Recipe("ushaped", labels="client", schedule="relay", source="Vepakomma et al. 2018, arXiv 1812.00564",
               summary="as vanilla, labels and head stay at the client"),
        Recipe("psl", step="joined", source="Jeon & Kim 2020, parallel split learning",
               summary="one server step on all clients' batches together, encoders stay personal"),
        Recipe("splitfed_v1", server="per_client", schedule="sequential", averaged=("encoder", "backbone"),
               source="Thapa et al., AAAI 2022, arXiv 2004.12088",
               summary="a backbone per client, everything averaged"),
        Recipe("splitfed_v2", schedule="sequential", averaged=("encoder",),
               source="Thapa et al., AAAI 2022, arXiv 2004.12088",
               summary="one backbone, clients in random order, encoders averaged"),
        Recipe("splitfed_v3", server="per_client", schedule="sequential", averaged=("backbone",),
               source="Gawali et al. 2020, arXiv 2012.12591",
               summary="a backbone per client, only backbones averaged"),
        Recipe("splitfed_u", labels="client", step="window", averaged=("encoder", "head"),
               source="U-shape (1812.00564) + SplitFed (2004.12088)",
               summary="U-shape, one backbone stepping on the mean of K batches, client parts averaged"),
        Recipe("file_sync", labels="client", step="window", averaged=("encoder", "head"), durable=True,
               source="MicroSFL, file-based gradient synchronization",
               summary="as splitfed_u, through the gradient store: stateless split servers"),
        Recipe("splitfed_async", step="window", schedule="asynchronous", averaged=("encoder",),
               source="SplitFed + FedAsync (Xie et al. 2019, arXiv 1903.03934)",
               summary="nobody waits: the backbone steps on every K arrivals, encoders are mixed in as they come"),
        Recipe("sglr", server="per_client", feedback="averaged_cut_gradient", averaged=("backbone",),
               source="Pal et al. 2021, arXiv 2112.05929", summary="every client gets the mean cut gradient"),
        Recipe("cse_fsl", feedback="auxiliary", upload_every=5, averaged=("encoder", "auxiliary"),
               source="Mu & Shen 2023, arXiv 2302.05599", summary="local auxiliary loss, every q-th batch uploaded"),
        Recipe("fsl_sage", feedback="estimated", upload_every=5, averaged=("encoder",),
               source="Nair et al. 2025, arXiv 2505.23182",
               summary="cut gradients estimated by an auxiliary model that the server aligns"),
    )
}  # fmt: skip


def get(spec: str | Mapping[str, Any] | Recipe) -> Recipe:
    """Return the recipe ``spec``: a name, ``"package.module:attribute"``, a Recipe, or a mapping of ``name`` and axes.

    Raises ConfigError for an unknown name or axis.
    """
    if isinstance(spec, Recipe):
        return spec
    if isinstance(spec, str):
        spec = {"name": spec}
    if not isinstance(spec, Mapping):
        raise ConfigError(f"algorithm must be a name, a mapping with a name and options, or a Recipe, got {spec!r}")
    options = dict(spec)
    name = options.pop("name", None)
    if isinstance(name, str) and ":" in name:
        recipe = _imported(name)
    elif name in RECIPES:
        recipe = RECIPES[name]
    else:
        close = get_close_matches(str(name), RECIPES, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ConfigError(f"algorithm must be one of {', '.join(RECIPES)} or package.module:recipe, got {name!r}{hint}")
    known = [f.name for f in fields(Recipe) if f.name not in ("name", "source", "summary")]
    for key in options:
        if key not in known:
            raise ConfigError(f"algorithm {recipe.name} has no option {key!r}; it has: {', '.join(known)}")
    return replace(recipe, **options)


def _imported(target: str) -> Recipe:
    recipe = load_object(target, "algorithm")
    if not isinstance(recipe, Recipe):
        raise ConfigError(f"algorithm {target!r} must be a cutlayer.Recipe, got {type(recipe).__name__}")
    return recipe
