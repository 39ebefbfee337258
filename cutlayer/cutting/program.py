"""A model's forward as a graph over its own submodules: what every way of cutting but one works on."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from cutlayer import streams


@dataclass(frozen=True)
class Program:
    """One mode (train or eval) of a model's forward.

    Attributes:
        graph: placeholders are the tensors of the example in order; ``call_module`` nodes are whole submodules of the
            model; ``get_attr`` nodes are parameters and buffers of the containers around them, or ``constants``.
            ``node.meta["inside"]`` holds the names of the containers in whose forward the node was recorded.
        constants: tensors made while tracing, by name.
    """

    graph: fx.Graph
    constants: dict[str, Any] = field(default_factory=dict)


class UnfitError(Exception):
    """A way of cutting does not fit the model; the text says why, as the end of a sentence."""


def is_pure(node: fx.Node) -> bool:
    """Return whether the node only computes a value: no state, no random numbers, nothing written."""
    if node.op == "get_attr":
        return True
    if node.op != "call_function":
        return False
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        arithmetic = getattr(node.target, "__module__", "") in ("_operator", "math")
        return arithmetic or node.target is getattr or getattr(node.target, "__name__", "").startswith("sym_")
    random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    return not schema.is_mutable and not random


def ancestors(names: Sequence[str]) -> frozenset[str]:
    """Return the names of all proper ancestors of the named submodules, the model itself ("") included."""
    found = {""}
    for name in names:
        atoms = name.split(".")
        found.update(".".join(atoms[:i]) for i in range(1, len(atoms)))
    return frozenset(found)


@contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Run the body with the whole model in train or eval mode; each module's own flag comes back afterwards."""
    flags = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def undisturbed(*models: nn.Module) -> Iterator[None]:
    """Leave the models' buffers, modes and attributes and the random generators as they were found."""
    modules = list({id(module): module for model in models for module in model.modules()}.values())
    attributes = [dict(module.__dict__) for module in modules]
    tables = [(table, dict(table)) for m in modules for table in (m._parameters, m._buffers, m._modules)]
    saved = [(b, b.detach().clone()) for module in modules for b in module._buffers.values() if b is not None]
    state = random.getstate()
    with streams.preserved():
        try:
            yield
        finally:
            random.setstate(state)
            for module, before in zip(modules, attributes, strict=True):
                _restore(module.__dict__, before)
            for table, old in tables:
                _restore(table, old)
            with torch.no_grad():
                for buffer, value in saved:
                    if not torch.equal(buffer, value):
                        buffer.copy_(value)


def _restore(table: dict[str, Any], before: dict[str, Any]) -> None:
    if len(table) != len(before) or any(table.get(key) is not value for key, value in before.items()):
        table.clear()
        table.update(before)


class _Recorder(fx.Interpreter):
    """Runs a program on the model itself and keeps the value of every node."""

    def __init__(self, model: nn.Module, program: Program) -> None:
        super().__init__(model, garbage_collect_values=False, graph=program.graph)
        self.constants = program.constants

    def fetch_attr(self, target: str) -> Any:
        return self.constants[target] if target in self.constants else super().fetch_attr(target)


def values(model: nn.Module, program: Program, training: bool, leaves: Sequence[Tensor]) -> dict[str, Any]:
    """Return the value of every node of the program, by node name, for one batch of inputs."""
    recorder = _Recorder(model, program)
    with undisturbed(model), mode(model, training):
        recorder.run(*leaves)
    return {node.name: value for node, value in recorder.env.items()}
