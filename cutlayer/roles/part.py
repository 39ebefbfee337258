"""A part in training: module, optimizer and schedule that belong together and travel together."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cutlayer import optimizers, step


class Part:
    """A piece of the model with the optimizer that steps it.

    The optimizer's state is never reset: loading new weights (an average, a hand-over) leaves the moments alone, and
    :meth:`state` holds both.  ``clip`` bounds the L2 norm of this part's gradient at every step.
    """

    def __init__(
        self, name: str, module: nn.Module, optimizer: Mapping[str, Any], *, clip: float | None = None
    ) -> None:
        self.name = name
        self.module = module.train()
        self.clip = clip
        self._spec = optimizer
        self.weights = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = optimizers.optimizer(optimizer, self.weights)
        self._bare_step = optimizers.bare_step(self.optimizer)
        self.schedule = optimizers.schedule(optimizer, self.optimizer)
        self.tensors = _named_tensors(module)
        self.has_buffers = next(module.buffers(), None) is not None

    def copy(self) -> Part:
        """Return an independent part: equal weights, buffers and optimizer state."""
        _drop_graphs(self.module)
        twin = Part(self.name, copy.deepcopy(self.module), self._spec, clip=self.clip)
        twin.load_state(*self.state())
        return twin

    def apply(self, gradients: Sequence[Tensor | None]) -> None:
        """Step once on ``gradients``, one a trainable parameter, clipped in place."""
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.grad = gradient
        self.step()

    def step(self) -> None:
        """Step once on the gradients that the parameters hold, and drop them."""
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.weights, self.clip)
        self._bare_step()
        for weight in self.weights:
            weight.grad = None

    def begin_round(self, number: int) -> None:
        """Put the learning-rate schedule at round ``number`` (from 1): it advances by rounds, taken part in or not."""
        if self.schedule is not None:
            with warnings.catch_warnings():  # torch warns of a schedule that moves while its optimizer rests
                warnings.simplefilter("ignore", UserWarning)
                while self.schedule.last_epoch < number - 1:
                    self.schedule.step()

    def read(self) -> dict[str, Tensor]:
        """Return the live weights and persistent buffers by original name; clone them to keep them."""
        return self.tensors

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy weights and buffers in, by original name; the optimizer's state stays."""
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                tensor.copy_(tensors[name])

    def snapshot(self) -> dict[str, Tensor]:
        """Return copies of weights and persistent buffers."""
        return {name: tensor.detach().clone() for name, tensor in self.tensors.items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return everything that training changes, as tensors (copies) and JSON: what a resume or a hand-over needs."""
        tensors = {f"weights/{name}": tensor for name, tensor in self.snapshot().items()}
        moments, steps = _flat(self.optimizer.state_dict())
        tensors |= {f"optimizer/{name}": tensor for name, tensor in moments.items()}
        tensors |= {f"buffers/{name}": b.detach().clone() for name, b in self._unsaved_buffers().items()}
        meta: dict[str, Any] = {"optimizer": steps}
        if self.schedule is not None:
            state = self.schedule.state_dict()
            meta["schedule"] = {k: v for k, v in state.items() if isinstance(v, int | float | list | bool | str)}
        return tensors, meta

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Put back what :meth:`state` returned; without any ``weights/`` only the optimizer's state."""
        weights = {k.removeprefix("weights/"): v for k, v in tensors.items() if k.startswith("weights/")}
        if weights:
            self.write(weights)
        moments = {k.removeprefix("optimizer/"): v for k, v in tensors.items() if k.startswith("optimizer/")}
        self.optimizer.load_state_dict(_unflat(moments, meta["optimizer"], self.optimizer.state_dict()))
        with torch.no_grad():
            for name, buffer in self._unsaved_buffers().items():
                if f"buffers/{name}" in tensors:
                    buffer.copy_(tensors[f"buffers/{name}"])
        if self.schedule is not None:
            self.schedule.load_state_dict({**self.schedule.state_dict(), **meta["schedule"]})

    def _unsaved_buffers(self) -> dict[str, Tensor]:
        return {k: b for k, b in self.module.named_buffers() if k not in self.tensors}

    def buffers(self) -> list[Tensor]:
        """Return copies of all buffers, in module order."""
        return step.snapshot(self.module) if self.has_buffers else []


def _drop_graphs(module: nn.Module) -> None:
    """Detach what forwards have left on modules, as torch's spectral_norm hook does: it forbids a deep copy."""
    for child in module.modules():
        for name, value in vars(child).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                vars(child)[name] = value.detach()


def _named_tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.state_dict(keep_vars=True))


def _flat(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimizer's state_dict into copies of its tensors ("<parameter>/<name>") and JSON.

    Which kernels it steps with (foreach, fused) is a matter of the machine and stays here.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{name}"] = value.detach().clone()
            else:
                numbers[f"{index}/{name}"] = value
    groups = [
        {
            k: v
            for k, v in group.items()
            if k not in ("params", "foreach", "fused") and isinstance(v, int | float | bool | str | list | tuple)
        }
        for group in state["param_groups"]
    ]
    return tensors, {"state": numbers, "groups": groups}


def _unflat(tensors: Mapping[str, Tensor], meta: Mapping[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *meta["state"].items()]:
        index, name = key.split("/", 1)
        state.setdefault(int(index), {})[name] = value.clone() if isinstance(value, Tensor) else value
    groups = []
    for here, there in zip(now["param_groups"], meta["groups"], strict=True):
        groups.append(here | {k: tuple(v) if isinstance(here.get(k), tuple) else v for k, v in there.items()})
    return {"state": state, "param_groups": groups}
