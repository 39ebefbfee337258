"""Names of cut points: find them in the model, or say what is there instead."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from torch import nn

from cutlayer.errors import CutError


def resolve(model: nn.Module, at: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of one or two cut points as the model itself calls them.

    Raises:
        CutError: not one or two names, or a name is no submodule of the model.
    """
    names = (at,) if isinstance(at, str) else tuple(at)
    if len(names) not in (1, 2):
        raise CutError(
            f"a model is cut at one point (encoder, backbone) or two (encoder, backbone, head), but {len(names)} "
            f"were given; name one or two submodules"
        )
    if len(set(names)) != len(names):
        raise CutError(f"both cuts are after '{names[0]}', so there is nothing between them; name two submodules")
    return tuple(_canonical(model, name) for name in names)


def _canonical(model: nn.Module, name: str) -> str:
    known = dict(model.named_modules(remove_duplicate=False))
    if name not in known or not name:
        raise CutError(_unknown(model, name))
    return next(str(first) for first, module in model.named_modules() if module is known[name])


def _unknown(model: nn.Module, name: str) -> str:
    kind = type(model).__name__
    names = [known for known, _ in model.named_modules() if known]
    children = [child for child, _ in model.named_children()]
    shown = ", ".join(children[:20]) + (f" and {len(children) - 20} more" if len(children) > 20 else "")
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    has = f"it has: {shown}" if children else "it has no submodules"
    if name in dict(model.named_parameters()) or name in dict(model.named_buffers()):
        return f"split '{name}' is a tensor of {kind}, not a submodule; a cut is made after a submodule, and {has}"
    return f"split '{name}' is not a submodule of {kind}; {has}" + (f"; did you mean '{close[0]}'?" if close else "")


def aliases(model: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    """Return every name that the named submodules have (a module may be registered in several places)."""
    wanted = [model.get_submodule(name) for name in names]
    return tuple(n for n, m in model.named_modules(remove_duplicate=False) if any(m is w for w in wanted))


def check_model(model: nn.Module) -> None:
    """Raise CutError for what is no plain, initialised module."""
    if not isinstance(model, nn.Module):
        raise CutError(f"expected a torch.nn.Module to cut, but got a {type(model).__name__}; pass the model itself")
    kind = type(model).__name__
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise CutError(f"{kind} wraps the model that is to be cut; split its .module instead")
    if isinstance(model, torch.jit.ScriptModule):
        raise CutError(
            f"{kind} is TorchScript, whose forward is compiled already; split the nn.Module it was made from"
        )
    if hasattr(model, "_orig_mod"):
        raise CutError(f"{kind} was compiled with torch.compile; split its ._orig_mod and compile the parts instead")
    for name, value in model.named_parameters():
        if isinstance(value, nn.parameter.UninitializedParameter):
            raise CutError(
                f"parameter '{name}' of {kind} is not initialised yet (a lazy module); "
                f"run the model once on a batch, then split it"
            )
        if value.is_meta:
            raise CutError(f"parameter '{name}' of {kind} is on the meta device and has no values; load them first")
