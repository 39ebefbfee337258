"""Where the model is cut: what each side holds, and how many bytes a sample sends across."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cutlayer.recipes import RECIPES, Recipe

Side = Literal["client", "server"]
SIDES: dict[str, Side] = {"encoder": "client", "backbone": "server", "head": "client"}


@dataclass(frozen=True)
class Part:
    """A part of the model, where it is, and its share of all parameters."""

    name: str
    side: Side
    parameters: int
    share: float


@dataclass(frozen=True)
class Crossing:
    """A cut between two parts: the tensors that cross it, and bytes of one sample and of a batch, uncompressed."""

    cut: str
    tensors: tuple[tuple[str, tuple[int, ...], str], ...]
    sample: float
    batch: float
    forward: str
    """What goes on, in the direction of the forward pass."""
    backward: str | None
    """What comes back; None where nothing does."""


@dataclass(frozen=True)
class CutModel:
    """A model as its run cuts it.  ``labels`` are at this side."""

    parts: tuple[Part, ...]
    crossings: tuple[Crossing, ...]
    labels: Side
    method: str
    batch_size: int

    @property
    def summary(self) -> str:
        """The picture in a sentence."""
        held = {side: sum(p.parameters for p in self.parts if p.side == side) for side in ("client", "server")}
        text = f"A client holds {held['client']:,} parameters, a server {held['server']:,}"
        cuts = " and ".join(each.cut for each in self.crossings)
        return f"{text}; cut at {cuts}." if cuts else f"{text}: the model is not cut."


def cut_model(model: Mapping[str, Any], experiment: Mapping[str, Any]) -> CutModel:
    """Return the picture of the artifact ``model.json`` and the run's experiment."""
    counts = {name: int(part["parameters"]) for name, part in model["parts"].items()}
    total = sum(counts.values()) or 1
    recipe = _recipe(experiment)
    whole = recipe is not None and recipe.server == "none"
    parts = tuple(
        Part(name, "client" if whole else SIDES.get(name, "server"), count, count / total)
        for name, count in counts.items()
    )
    batch = int(experiment.get("batch_size") or 1)
    cuts = list(dict.fromkeys([*model.get("cuts", ()), *(c["cut"] for c in model["crossings"])]))
    crossings = () if whole else tuple(_crossing(model, cut, n, batch, recipe) for n, cut in enumerate(cuts))
    labels: Side = "client" if whole or (recipe is not None and recipe.labels == "client") else "server"
    return CutModel(parts, crossings, labels, str(model.get("method", "")), batch)


def _crossing(model: Mapping[str, Any], cut: str, n: int, batch: int, recipe: Recipe | None) -> Crossing:
    found = [c for c in model["crossings"] if c["cut"] == cut]
    sample = float(sum(c["bytes"] for c in found))
    tensors = tuple((str(c["name"]), tuple(c["shape"]), str(c["dtype"])) for c in found)
    if n == 0:
        returns = recipe is None or not (recipe.local_loss or recipe.feedback in ("none", "whole_model"))
        return Crossing(cut, tensors, sample, batch * sample, "activations", "gradients" if returns else None)
    return Crossing(cut, tensors, sample, batch * sample, "outputs", "output gradients")


def _recipe(experiment: Mapping[str, Any]) -> Recipe | None:
    algorithm = experiment.get("algorithm")
    name = algorithm.get("name") if isinstance(algorithm, Mapping) else algorithm
    return RECIPES.get(str(name))
