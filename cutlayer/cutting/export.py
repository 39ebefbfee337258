"""The second way of cutting: torch.export with every dimension dynamic, the submodules put back whole.

Where the containers' Python depends on shapes or flags, fx cannot trace it, but torch.export can, with fake tensors.
Only what the containers do themselves is taken from the exported graph; each submodule they call is called again as a
whole, with its own Python, modes and state.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from cutlayer.cutting.inputs import Inputs, batch_of, doubled
from cutlayer.cutting.program import Program, UnfitError, is_pure, mode, undisturbed
from cutlayer.cutting.units import called_units, short

_PREFIX = "model"


class _Positional(nn.Module):
    """The model, called with its tensors in a row."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self._inputs = inputs

    def forward(self, *leaves: Tensor) -> Any:
        args, named = self._inputs.call(leaves)
        return self.model(*args, **named)


def export(
    model: nn.Module, containers: frozenset[str], inputs: Inputs, leaves: Sequence[Tensor]
) -> Mapping[bool, Program]:
    """Export the model in train and in eval mode; raise UnfitError with export's reason where it cannot.

    Law: interpreting the program of a mode on the model gives what the model gives in that mode.
    """
    if batch_of(leaves) < 2:
        leaves = doubled(leaves)
    programs = {}
    for training in (True, False):
        units = called_units(model, containers, inputs, leaves, training)
        with undisturbed(model), mode(model, training), _quiet():
            exported = _export(model, units, inputs, leaves)
            programs[training] = _put_back(exported, units, inputs)
    return programs


def _export(model: nn.Module, units: Sequence[str], inputs: Inputs, leaves: Sequence[Tensor]) -> ExportedProgram:
    fresh = tuple(t.detach().clone() for t in leaves)
    dims = tuple(dict.fromkeys(range(t.dim()), Dim.AUTO) for t in fresh)
    try:
        return torch.export.export(
            _Positional(model, inputs),
            fresh,
            dynamic_shapes=(dims,),
            strict=False,
            preserve_module_call_signature=tuple(f"{_PREFIX}.{name}" for name in units),
        )
    except Exception as error:
        raise UnfitError(f"torch.export cannot follow its forward ({short(error)})") from error


@contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch._export", "torch.fx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        # where export fails, it also prints the graph so far
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@dataclasses.dataclass(frozen=True)
class _Call:
    """One call of a submodule in the exported graph."""

    name: str
    inputs: tuple[Any, ...]
    outputs: tuple[str, ...]
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec


def _strip(name: str) -> str:
    return name.split("@")[0].removeprefix(_PREFIX).removeprefix(".")


def _calls(exported: ExportedProgram, units: Sequence[str]) -> list[_Call]:
    found = []
    for entry in exported.module_call_graph:
        signature = entry.signature
        if signature is None or _strip(entry.fqn) not in units:
            continue
        outputs = tuple(getattr(value, "name", "") for value in signature.outputs)
        found.append(_Call(_strip(entry.fqn), tuple(signature.inputs), outputs, signature.in_spec, signature.out_spec))
    return found


def _containers_of(node: fx.Node) -> tuple[str, ...]:
    stack = node.meta.get("nn_module_stack") or {}
    return tuple(_strip(fqn) for fqn, _ in stack.values() if fqn.startswith(_PREFIX))


class _Rebuild:
    """Builds the graph over whole submodules from the exported one."""

    def __init__(self, exported: ExportedProgram, units: Sequence[str], inputs: Inputs) -> None:
        self.exported = exported
        self.units = frozenset(units)
        self.inputs = inputs
        self.graph = fx.Graph()
        self.env: dict[str, Any] = {}
        self.constants: dict[str, Any] = {}
        self.calls: dict[str, _Call] = {}
        for call in _calls(exported, units):
            known = {getattr(value, "name", None) for value in call.inputs}
            for name in call.outputs:
                if name and name not in known:
                    self.calls.setdefault(name, call)
        self.nodes = {node.name: node for node in exported.graph.nodes}

    def run(self) -> Program:
        self._placeholders()
        for node in self.exported.graph.nodes:
            if node.op in ("placeholder", "output") or node.name in self.env:
                continue
            if node.name in self.calls:
                self._call(self.calls[node.name])
            elif not self.units.intersection(_containers_of(node)):
                self._copy(node)
        self._output()
        _drop_dead(self.graph)
        return Program(self.graph, self.constants)

    def _placeholders(self) -> None:
        users = iter(self.inputs.labels)
        for spec in self.exported.graph_signature.input_specs:
            name = getattr(spec.arg, "name", "")
            if spec.kind is InputKind.USER_INPUT:
                made = self.graph.placeholder(next(users))
                made.meta["val"] = self.nodes[name].meta.get("val")
                self.env[name] = made
        for spec in self.exported.graph_signature.input_specs:
            name = getattr(spec.arg, "name", "")
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
                self._attribute(name, _strip(str(spec.target)))
            elif spec.kind is InputKind.CONSTANT_TENSOR:
                target = _strip(str(spec.target))
                self.constants[target] = self.exported.constants[str(spec.target)]
                self._attribute(name, target)
            elif spec.kind is not InputKind.USER_INPUT:
                raise UnfitError(f"its exported graph has an input of kind {spec.kind.name}")

    def _attribute(self, name: str, target: str) -> None:
        made = self.graph.create_node("get_attr", target)
        made.meta["val"] = self.nodes[name].meta.get("val")
        self.env[name] = made

    def _copy(self, node: fx.Node) -> None:
        if "_assert" in str(node.target) or "sym_constrain" in str(node.target):
            return
        if node.op != "call_function" or not all(self._available(arg) for arg in node.all_input_nodes):
            return
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self.env[n.name])
        made = self.graph.create_node(node.op, node.target, args, kwargs, node.name)
        made.meta["inside"] = _containers_of(node)
        made.meta["val"] = node.meta.get("val")
        self.env[node.name] = made

    def _available(self, node: fx.Node) -> bool:
        """Return whether a node's value is there; arithmetic on sizes is, wherever export first needed it."""
        if node.name not in self.env and is_pure(node) and not isinstance(node.target, torch._ops.OpOverload):
            self._copy(node)
        return node.name in self.env

    def _lookup(self, name: str) -> Any:
        if name not in self.env:
            raise UnfitError(
                f"'{name}' of the exported graph comes from inside a submodule or from an operator with its own graph"
            )
        return self.env[name]

    def _value(self, argument: Any) -> Any:
        if hasattr(argument, "name") and argument.name in self.nodes:
            return self._lookup(argument.name)
        if hasattr(argument, "value"):
            return argument.value
        return self._lookup(argument.name)

    def _call(self, call: _Call) -> None:
        values = [self._value(argument) for argument in call.inputs]
        args, kwargs = pytree.tree_unflatten(values, call.in_spec)
        args, kwargs = _as_arguments(self.graph, args), _as_arguments(self.graph, kwargs)
        made = self.graph.create_node("call_module", call.name, args, kwargs)
        made.meta["inside"] = tuple(call.name.rsplit(".", 1)[:-1])
        paths = _paths(call.out_spec)
        for name, path in zip(call.outputs, paths, strict=True):
            if name not in self.nodes:
                continue
            value = made
            for key in path:
                function = getattr if isinstance(key, pytree.GetAttrKey) else operator.getitem
                value = self.graph.call_function(function, (value, _key(key)))
                value.meta["inside"] = made.meta["inside"]
            value.meta["val"] = self.nodes[name].meta.get("val")
            self.env.setdefault(name, value)

    def _output(self) -> None:
        flat = [
            self.env[arg.name] if isinstance(arg, fx.Node) and arg.name in self.env else self._constant(arg)
            for arg in pytree.tree_leaves(next(n for n in self.exported.graph.nodes if n.op == "output").args[0])
        ]
        specs = self.exported.graph_signature.output_specs
        user = [value for value, spec in zip(flat, specs, strict=True) if spec.kind.name == "USER_OUTPUT"]
        if len(user) != len(specs):
            raise UnfitError("its forward writes state outside its submodules")
        structure = pytree.tree_unflatten(user, self.exported.call_spec.out_spec)
        self.graph.output(_as_arguments(self.graph, structure))

    def _constant(self, argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return self._lookup(argument.name)
        return argument


def _key(key: Any) -> Any:
    return getattr(key, "idx", None) if hasattr(key, "idx") else getattr(key, "key", getattr(key, "name", None))


def _paths(spec: pytree.TreeSpec) -> list[tuple[Any, ...]]:
    numbered = pytree.tree_unflatten(range(spec.num_leaves), spec)
    return [tuple(path) for path, _ in pytree.tree_flatten_with_path(numbered)[0]]


def _as_arguments(graph: fx.Graph, value: Any) -> Any:
    """Return the value with every container that fx does not know built by a call of its class."""
    if isinstance(value, dict):
        items = {key: _as_arguments(graph, item) for key, item in value.items()}
        if type(value) is dict:
            return items
        named = {k: v for k, v in items.items() if v is not None}
        return (
            graph.call_function(type(value), (), named)
            if dataclasses.is_dataclass(value)
            else graph.call_function(type(value), (items,))
        )
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return graph.call_function(type(value), tuple(_as_arguments(graph, item) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(_as_arguments(graph, item) for item in value)
    if value is None or isinstance(value, fx.Node | int | float | str | bool | complex | torch.dtype | torch.device):
        return value
    raise UnfitError(f"a {type(value).__name__} is passed between its submodules")


def _put_back(exported: ExportedProgram, units: Sequence[str], inputs: Inputs) -> Program:
    return _Rebuild(exported, units, inputs).run()


def _drop_dead(graph: fx.Graph) -> None:
    for node in reversed(list(graph.nodes)):
        if not node.users and is_pure(node):
            graph.erase_node(node)
