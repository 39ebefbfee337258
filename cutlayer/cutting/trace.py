"""The first way of cutting: torch.fx over the containers of the cut points only.

Every module that does not contain a cut point stays whole, with its own Python, modes and state; only the forward of
the containers around the cut points is traced, once per mode.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import fx, nn

from cutlayer.cutting.inputs import Inputs
from cutlayer.cutting.program import Program, UnfitError, mode, undisturbed
from cutlayer.cutting.units import short


class _Tracer(fx.Tracer):
    """fx's tracer with the containers of the cut points as its only non-leaf modules."""

    proxy_buffer_attributes = True

    def __init__(self, containers: frozenset[str], inputs: Inputs) -> None:
        super().__init__()
        self.containers = containers
        self.inputs = inputs
        self.inside: list[str] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self.containers

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        name = self.path_of_module(m)
        if self.is_leaf_module(m, name):
            return super().call_module(m, forward, args, kwargs)
        self.inside.append(name)
        try:
            return super().call_module(m, forward, args, kwargs)
        finally:
            self.inside.pop()

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta["inside"] = tuple(self.inside)
        return node

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        proxies = [self.create_proxy("placeholder", label, (), {}) for label in self.inputs.labels]
        args, named = self.inputs.call(proxies)
        return (lambda root, *_: root_fn(root, *args, **named)), [self.root]

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, dict) and type(a) is not dict:
            items: dict[str, Any] = {name: self.create_arg(value) for name, value in a.items()}
            if hasattr(a, "__dataclass_fields__"):
                return self.create_node("call_function", type(a), (), items)
            return self.create_node("call_function", type(a), (items,), {})
        return super().create_arg(a)


@contextmanager
def _no_side_effects(model: nn.Module, containers: frozenset[str]) -> Iterator[dict[str, Any]]:
    """Undo what tracing sets on the containers; collect fx's own constants; reject a forward that keeps state."""
    modules = {name: model.get_submodule(name) for name in containers}
    before = {name: dict(module.__dict__) for name, module in modules.items()}
    tables: dict[str, tuple[dict[str, Any], ...]] = {
        name: (dict(m._buffers), dict(m._parameters), dict(m._modules)) for name, m in modules.items()
    }
    constants: dict[str, Any] = {}
    changed: list[str] = []
    try:
        yield constants
    finally:
        for name, module in modules.items():
            for key in [k for k in module.__dict__ if k not in before[name]]:
                value = module.__dict__.pop(key)
                if not name and key.startswith("_") and "_constant" in key:
                    constants[key] = value
                else:
                    changed.append(f"{name}.{key}".lstrip("."))
            for key, value in before[name].items():
                if module.__dict__.get(key) is not value:
                    module.__dict__[key] = value
                    changed.append(f"{name}.{key}".lstrip("."))
            present: tuple[dict[str, Any], ...] = (module._buffers, module._parameters, module._modules)
            for table, old in zip(present, tables[name], strict=True):
                keys = [k for k in {*table, *old} if table.get(k) is not old.get(k)]
                new = [k for k in keys if k not in old and "_constant" in k and not name]
                constants.update({k: table[k] for k in new})
                changed += [f"{name}.{k}".lstrip(".") for k in keys if k not in new]
                if keys:
                    table.clear()
                    table.update(old)
    if changed:
        raise UnfitError(f"forward assigns self.{changed[0]}, which a traced graph would not do")


def _states() -> tuple[Any, ...]:
    return torch.default_generator.get_state().tolist(), random.getstate()


def trace(model: nn.Module, containers: frozenset[str], inputs: Inputs) -> Mapping[bool, Program]:
    """Trace the containers' forward in train and in eval mode; raise UnfitError with fx's reason where it cannot.

    Law: interpreting the program of a mode on the model gives what the model gives in that mode.
    """
    if not isinstance(getattr(type(model), "forward", None), FunctionType) or "forward" in model.__dict__:
        raise UnfitError(f"{type(model).__name__} has no ordinary forward method to trace")
    programs = {}
    for training in (True, False):
        with undisturbed(model), mode(model, training):
            before = _states()
            try:
                with _no_side_effects(model, containers) as constants:
                    graph = _Tracer(containers, inputs).trace(model)
            except UnfitError:
                raise
            except Exception as error:
                raise UnfitError(f"its forward does not trace symbolically ({short(error)})") from error
            if _states() != before:
                raise UnfitError("its forward draws random numbers outside its submodules")
        programs[training] = Program(graph, constants)
    return programs
