"""How client parts become one: FedAvg, FedAdam, FedYogi, coordinate-wise median and trimmed mean.

An aggregator takes the updates in canonical order (by client), one at a time where the rule allows, so that the result
does not depend on the order of arrival and memory holds two models, not m.  FedProx averages as FedAvg does: its term
is at the client.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cutlayer.errors import ConfigError

Tensors = Mapping[str, Tensor]
Updates = Iterable[tuple[int, Tensors]]
"""(samples n_i, weights and buffers of client i), in canonical order."""


class FedAvg:
    """Σ n_i/N w_i (McMahan et al. 2016, arXiv 1602.05629); counters (integer buffers) take the rounded mean."""

    def combine(self, now: Tensors, updates: Updates, buffers: Collection[str] = ()) -> dict[str, Tensor]:
        """Return the weights that follow ``now``, the ones the clients started from; ``buffers`` are not learned."""
        return weighted_mean(updates)

    def state(self) -> dict[str, Tensor]:
        """Return what lives on over rounds."""
        return {}

    def load_state(self, tensors: Tensors) -> None:
        """Put back what :meth:`state` returned."""


class Adaptive(FedAvg):
    """FedAdam and FedYogi (Reddi et al. 2021, arXiv 2003.00295, algorithm 2): the mean update Δ is a gradient.

    m ← β₁ m + (1-β₁) Δ;  v ← β₂ v + (1-β₂) Δ²  (Adam)  or  v - (1-β₂) Δ² sign(v - Δ²)  (Yogi);  w ← w + η m/(√v + τ).
    Buffers are averaged as in FedAvg.
    """

    def __init__(
        self, yogi: bool, lr: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
    ) -> None:
        self.yogi, self.lr, self.beta1, self.beta2, self.tau = yogi, lr, beta1, beta2, tau
        self.m: dict[str, Tensor] = {}
        self.v: dict[str, Tensor] = {}

    def combine(self, now: Tensors, updates: Updates, buffers: Collection[str] = ()) -> dict[str, Tensor]:
        """Return the weights that follow ``now``."""
        mean = weighted_mean(updates)
        for name, target in mean.items():
            if not target.is_floating_point() or name in buffers:
                continue
            Δ = target - now[name]
            m = self.m.get(name, torch.zeros_like(Δ))
            v = self.v.get(name, torch.full_like(Δ, self.tau**2))
            square = Δ * Δ
            self.m[name] = self.beta1 * m + (1 - self.beta1) * Δ
            if self.yogi:
                self.v[name] = v - (1 - self.beta2) * square * torch.sign(v - square)
            else:
                self.v[name] = self.beta2 * v + (1 - self.beta2) * square
            mean[name] = now[name] + self.lr * self.m[name] / (self.v[name].sqrt() + self.tau)
        return mean

    def state(self) -> dict[str, Tensor]:
        """Return the moments."""
        return {f"m/{k}": t for k, t in self.m.items()} | {f"v/{k}": t for k, t in self.v.items()}

    def load_state(self, tensors: Tensors) -> None:
        """Put the moments back."""
        self.m = {k[2:]: t.clone() for k, t in tensors.items() if k.startswith("m/")}
        self.v = {k[2:]: t.clone() for k, t in tensors.items() if k.startswith("v/")}


class Trimmed(FedAvg):
    """Coordinate-wise mean without the ``fraction`` largest and smallest values; ``fraction=0.5`` is the median.

    Yin et al. 2018, arXiv 1803.01498.  Clients count alike; memory holds all updates.
    """

    def __init__(self, fraction: float) -> None:
        if not 0 <= fraction <= 0.5:
            raise ConfigError(f"aggregator trimmed_mean: fraction must be between 0 and 0.5, got {fraction}")
        self.fraction = fraction

    def combine(self, now: Tensors, updates: Updates, buffers: Collection[str] = ()) -> dict[str, Tensor]:
        """Return the trimmed mean of the updates."""
        everyone = [tensors for _, tensors in updates]
        return {name: self._reduce([t[name] for t in everyone]) for name in everyone[0]}

    def _reduce(self, values: list[Tensor]) -> Tensor:
        first = values[0]
        stack = torch.stack([v.double() for v in values]).sort(0).values
        cut = min(int(self.fraction * len(values)), (len(values) - 1) // 2)
        mean = stack[cut : len(values) - cut].mean(0)
        return (mean if first.is_floating_point() else mean.round()).to(first.dtype)


def weighted_mean(updates: Updates) -> dict[str, Tensor]:
    """Return Σ n_i/N w_i, folded in the order given; one update is itself, bit for bit."""
    total: dict[str, Tensor] = {}
    weight, count = 0, 0
    first: dict[str, Tensor] = {}
    for samples, tensors in updates:
        count += 1
        weight += samples
        for name, tensor in tensors.items():
            if count == 1:
                first[name] = tensor
                total[name] = tensor.to(_wide(tensor)) * samples
            else:
                total[name].add_(tensor.to(_wide(tensor)), alpha=samples)
    if count == 1:
        return {name: tensor.clone() for name, tensor in first.items()}
    return {
        name: (mean if tensor.is_floating_point() else mean.round()).to(tensor.dtype)
        for name, tensor in first.items()
        for mean in [total[name] / weight]
    }


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.device.type != "mps" else torch.float32


@dataclass(frozen=True)
class Rule:
    """An aggregator by name: how it is made, and its options with their defaults."""

    make: Callable[..., FedAvg]
    options: Mapping[str, float]
    summary: str


_ADAPTIVE = {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3}
AGGREGATORS: dict[str, Rule] = {
    "fedavg": Rule(lambda: FedAvg(), {}, "mean weighted by samples"),
    "fedprox": Rule(lambda mu: FedAvg(), {"mu": 0.01}, "FedAvg, with a proximal term at the client (arXiv 1812.06127)"),
    "fedadam": Rule(lambda **o: Adaptive(False, **o), _ADAPTIVE, "Adam on the mean update (arXiv 2003.00295)"),
    "fedyogi": Rule(lambda **o: Adaptive(True, **o), _ADAPTIVE, "Yogi on the mean update (arXiv 2003.00295)"),
    "median": Rule(lambda: Trimmed(0.5), {}, "coordinate-wise median (arXiv 1803.01498)"),
    "trimmed_mean": Rule(Trimmed, {"fraction": 0.1}, "coordinate-wise trimmed mean (arXiv 1803.01498)"),
}


def aggregator(spec: Mapping[str, Any]) -> FedAvg:
    """Return the aggregator that ``spec`` (``name`` and options) describes.  Raises ConfigError if there is none."""
    options = dict(spec)
    name = options.pop("name", None)
    rule = AGGREGATORS.get(str(name))
    if rule is None:
        raise ConfigError(f"aggregator must be one of {', '.join(AGGREGATORS)}, got {name!r}")
    for key, value in options.items():
        if key not in rule.options:
            raise ConfigError(f"aggregator {name} has no option {key!r}; it has: {', '.join(rule.options) or 'none'}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"aggregator {name}: {key} must be a number, got {value!r}")
    return rule.make(**{**rule.options, **options})
