"""A part of a cut model: a light module with the original names, around generated code that copies share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from cutlayer.cutting.inputs import Inputs

Code = Callable[..., Any]


def as_tuple(value: Any) -> tuple[Any, ...]:
    """Return what a part returned as the positional arguments of the next part."""
    return value if isinstance(value, tuple) else (value,)


class Branch(nn.Module):
    """A place in the module tree: it keeps the original names of what a part took out of a container."""


class Part(nn.Module):
    """One part of a cut model (encoder, backbone or head).

    Called with what the part before it returned (``as_tuple``), or, for the encoder, with the model's own inputs as in
    the example.  Returns one bare value where one value crosses its cut, else a flat tuple; the last part returns the
    model's own output.  Any batch size; ``train()`` and ``eval()`` switch it as they switch the uncut model.  The keys
    of its ``state_dict`` are those of the uncut model.  A deep copy is independent; the code is shared.

    Values that the part changes in place (a first layer with ``inplace=True``) are cloned on entry, so that leaves
    which require grad may be passed and are not overwritten.
    """

    def __init__(self, codes: Mapping[bool, Code], inputs: Inputs | None = None) -> None:
        super().__init__()
        self._codes = dict(codes)
        self._inputs = inputs
        self._clones: tuple[int, ...] = ()
        self._fill = 0.0

    def forward(self, *args: Any, **named: Any) -> Any:
        """Run this part on one batch."""
        if self._inputs is not None:
            args = self._inputs.leaves(args, named)
        if self._clones:
            args = tuple(a.clone() if i in self._clones else a for i, a in enumerate(args))
        return self._codes[self.training](self, *args)

    def extra_repr(self) -> str:
        """Say what the encoder is called with."""
        return f"inputs: {', '.join(self._inputs.names)}" if self._inputs is not None else ""


def compile_graph(graph: fx.Graph) -> Code:
    """Return a function ``f(part, *inputs)`` that runs the graph with the part's modules; deep copies share it."""
    python = graph.python_code("self")
    namespace: dict[str, Any] = dict(python.globals)
    exec(compile(python.src, "<cutlayer part>", "exec"), namespace)
    code: Code = namespace["forward"]
    return code


def place(part: nn.Module, name: str, kind: str, value: Any) -> None:
    """Register a module, parameter, buffer (persistent or not) or constant in a part under its original name."""
    *path, last = name.split(".")
    home = part
    for atom in path:
        if atom not in home._modules:
            branch = Branch()
            branch.training = part.training
            home.add_module(atom, branch)
        home = home._modules[atom]  # type: ignore[assignment]
    if kind == "module":
        home.add_module(last, value)
    elif kind == "parameter":
        home.register_parameter(last, value)
    elif isinstance(value, Tensor) or value is None:
        home.register_buffer(last, value, persistent=kind == "buffer")
    else:
        setattr(home, last, value)


def detached(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the values as they arrive on the other side: floating tensors as fresh leaves that require grad."""

    def arrive(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        differentiable = value.is_floating_point() or value.is_complex()
        return value.detach().requires_grad_(torch.is_grad_enabled() and differentiable)

    return tuple(arrive(value) for value in values)
