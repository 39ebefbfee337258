"""Which submodules the containers around the cut points call: seen by running the model once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cutlayer.cutting.inputs import Inputs
from cutlayer.cutting.program import UnfitError, mode, undisturbed


def called_units(
    model: nn.Module, containers: frozenset[str], inputs: Inputs, leaves: Sequence[Tensor], training: bool
) -> list[str]:
    """Return the submodules that the containers call themselves, in the order of their first call."""
    names = {module: name for name, module in model.named_modules()}
    inside = {model.get_submodule(name) for name in containers}
    depth: list[nn.Module] = []
    found: dict[str, None] = {}

    def enter(module: nn.Module, _: Any) -> None:
        if module in inside:
            return
        if not depth and module in names:
            found[names[module]] = None
        depth.append(module)

    def leave(module: nn.Module, *_: Any) -> None:
        if module not in inside:
            depth.pop()

    hooks = [nn.modules.module.register_module_forward_pre_hook(enter)]
    hooks.append(nn.modules.module.register_module_forward_hook(leave, always_call=True))
    try:
        with undisturbed(model), mode(model, training), torch.no_grad():
            args, named = inputs.call([t.detach().clone() for t in leaves])
            model(*args, **named)
    except Exception as error:
        raise UnfitError(f"the uncut model itself fails on the example ({short(error)})") from error
    finally:
        for hook in hooks:
            hook.remove()
    return list(found)


def short(error: BaseException) -> str:
    """Return the first line of an error's message, shortened."""
    text = str(error).strip().split("\n")[0] or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
