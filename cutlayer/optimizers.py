"""Optimizers and learning-rate schedules from ``torch.optim``, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cutlayer.errors import ConfigError

Schedule = torch.optim.lr_scheduler.LRScheduler


def optimizer(spec: Mapping[str, Any], parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    """Return the ``torch.optim`` optimizer over ``parameters`` that ``spec`` describes: ``name`` and its arguments."""
    options = {k: v for k, v in spec.items() if k not in ("name", "schedule")}
    kind = _class(torch.optim, str(spec["name"]), torch.optim.Optimizer, "optimizer")
    accepted = _accepted(kind, options, "optimizer")
    free = "foreach" in inspect.signature(kind).parameters and not accepted.keys() & {"foreach", "fused"}
    if free and all(p.device.type == "cpu" for p in parameters):
        accepted["foreach"] = False  # as torch decides on a CPU, anew at every step
    return kind(list(parameters) or [torch.zeros(1, requires_grad=True)], **accepted)  # type: ignore[no-any-return]


def bare_step(steps: torch.optim.Optimizer) -> Callable[[], Any]:
    """Return ``steps.step`` without the profiler range and the step hooks that torch puts around it.

    They cost more than SGD does on a small part, and a cut model pays them once a part.
    """
    function: Any = type(steps).step
    return partial(function.__wrapped__ if getattr(function, "hooked", False) else function, steps)


def schedule(spec: Mapping[str, Any], steps: torch.optim.Optimizer) -> Schedule | None:
    """Return the schedule ``spec["schedule"]`` over optimizer ``steps``, counted in rounds; None if there is none."""
    wanted = spec.get("schedule")
    if not wanted:
        return None
    if not isinstance(wanted, str | Mapping):
        raise ConfigError(f"schedule must be a name, or a mapping with a name and options, got {wanted!r}")
    wanted = {"name": wanted} if isinstance(wanted, str) else dict(wanted)
    kind = _class(torch.optim.lr_scheduler, str(wanted.pop("name", None)), Schedule, "schedule")
    return kind(steps, **_accepted(kind, wanted, "schedule"))  # type: ignore[no-any-return]


def check(spec: Mapping[str, Any], rounds: int = 1) -> None:
    """Raise ConfigError if ``spec`` does not describe an optimizer, or its schedule does not last ``rounds``."""
    steps = optimizer(spec, [torch.zeros(1, requires_grad=True)])
    rates = schedule(spec, steps)
    if rates is None:
        return
    try:
        for _ in range(rounds - 1):
            steps.step()
            rates.step()
    except ValueError as error:
        raise ConfigError(f"schedule {type(rates).__name__} does not last {rounds} rounds: {error}") from None


def _class(module: Any, name: str, base: type, what: str) -> Any:
    known = sorted(n for n in dir(module) if _usable(getattr(module, n), base))
    match = {n.lower(): n for n in known}.get(name.lower())
    if match is None:
        raise ConfigError(f"{what} must be a class of {module.__name__} ({', '.join(known)}), got {name!r}")
    return getattr(module, match)


def _usable(found: object, base: type) -> bool:
    # LBFGS wants a closure that runs the model again, SparseAdam sparse gradients: neither is there after the cut.
    return (
        inspect.isclass(found)
        and issubclass(found, base)
        and found is not base
        and not found.__name__.startswith("_")
        and found.__name__ not in ("LBFGS", "SparseAdam", "Muon", "ReduceLROnPlateau", "LRScheduler")
    )


def _accepted(kind: type, options: Mapping[str, Any], what: str) -> dict[str, Any]:
    names = [n for n in inspect.signature(kind).parameters if n not in ("self", "params", "optimizer")]
    for key in options:
        if key not in names:
            raise ConfigError(f"{what} {kind.__name__} has no argument {key!r}; it has: {', '.join(names)}")
    try:
        dummy = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        kind(dummy if what == "schedule" else [torch.zeros(1, requires_grad=True)], **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"{what} {kind.__name__} refuses its arguments: {error}") from None
    return dict(options)
