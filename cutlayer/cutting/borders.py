"""What crosses a cut of a program, and how each value is made from it on the other side.

Tensors and numbers cross; tuples and dicts cross item by item.  A number that is a dimension of a tensor which crosses
anyway is read off that tensor, where the two agree at several batch sizes; devices and dtypes are those of what
arrives; what is the same in every batch is written into the code.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from cutlayer.cutting.program import UnfitError

Values = Mapping[str, Any]
_METADATA_METHODS = {"size", "dim", "numel", "ndimension", "get_device"}
_METADATA_ATTRIBUTES = {"shape", "ndim", "device", "dtype", "is_cuda"}
_METADATA_OPS = {torch.ops.aten.sym_size.int, torch.ops.aten.sym_numel.default}


@dataclass(frozen=True)
class Wire:
    """One value that crosses a cut: a node's value, or the item at ``path`` inside its tuple or dict."""

    node: fx.Node
    path: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Size:
    """An int that need not cross: dimension ``dim`` of wire ``index``."""

    index: int
    dim: int


@dataclass(frozen=True)
class Attribute:
    """A device or dtype that need not cross: that of wire ``index``."""

    index: int
    name: str


@dataclass(frozen=True)
class Literal:
    """A value that is the same in every batch."""

    value: Any


@dataclass(frozen=True)
class Structure:
    """A container whose items arrive separately."""

    kind: Callable[..., Any]
    items: tuple[Any, ...]
    keys: tuple[Any, ...] | None = None


@dataclass
class Border:
    """What crosses one cut, and how each node's value is made from it on the other side."""

    wires: list[Wire]
    recipes: dict[fx.Node, Any]


def is_metadata(node: fx.Node) -> bool:
    """Return whether the node only asks a tensor for its size, device or dtype."""
    if node.op == "call_method":
        return node.target in _METADATA_METHODS
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in _METADATA_ATTRIBUTES
    return node.op == "call_function" and node.target in _METADATA_OPS


def is_item(node: fx.Node) -> bool:
    """Return whether the node takes one item, by position or name, out of another node's value."""
    return (
        node.op == "call_function"
        and (node.target is operator.getitem or (node.target is getattr and not is_metadata(node)))
        and isinstance(node.args[0], fx.Node)
        and isinstance(node.args[1], int | str)
    )


def _describe(value: Any, leaf: Callable[[Any, tuple[Any, ...]], Any], path: tuple[Any, ...] = ()) -> Any:
    """Map a value to a recipe: ``leaf(value, path)`` for what is no container."""
    if isinstance(value, torch.Size | tuple | list):
        kind: Any = tuple if isinstance(value, torch.Size) else type(value)
        return Structure(kind, tuple(_describe(v, leaf, (*path, i)) for i, v in enumerate(value)))
    if isinstance(value, dict):
        items = tuple(_describe(v, leaf, (*path, k)) for k, v in value.items())
        return Structure(type(value), items, tuple(value))
    return leaf(value, path)


def _item(value: Any, path: Sequence[Any]) -> Any:
    for key in path:
        value = value[key]
    return value


def _is_size(node: fx.Node, seen: Sequence[int], other: fx.Node, found: Sequence[Tensor], dim: int) -> bool:
    """Return whether an int is dimension ``dim`` of a tensor: both vary alike, or export knows them as one symbol."""
    if any(dim >= t.dim() or t.size(dim) != size for t, size in zip(found, seen, strict=True)):
        return False
    symbol, shape = node.meta.get("val"), getattr(other.meta.get("val"), "shape", None)
    same = isinstance(symbol, torch.SymInt) and shape is not None and str(symbol) == str(shape[dim])
    return same or len(set(seen)) > 1


def border_of(crossing: Sequence[fx.Node], samples: Sequence[Values]) -> Border:
    """Return the border that the given nodes' values cross, by their values at several batch sizes.

    Without samples every value crosses as it is.  Raises UnfitError for what cannot cross.
    """
    wires: list[Wire] = []
    tensors: list[tuple[int, list[Tensor]]] = []
    later: list[fx.Node] = []

    def wire(value: Any, node: fx.Node, path: tuple[Any, ...]) -> Wire:
        new = Wire(node, path)
        seen = [_item(s[node.name], path) for s in samples]
        if isinstance(value, Tensor):
            for index, found in tensors:
                if all(one is two for one, two in zip(seen, found, strict=True)):
                    return wires[index]
            tensors.append((len(wires), seen))
        wires.append(new)
        return new

    def leaf(node: fx.Node, value: Any, path: tuple[Any, ...]) -> Any:
        if isinstance(value, Tensor):
            return wire(value, node, path)
        seen = [_item(s[node.name], path) for s in samples]
        if isinstance(value, torch.device) and tensors:
            return Attribute(tensors[0][0], "device")
        if isinstance(value, torch.dtype):
            same = [i for i, found in tensors if found[0].dtype == value]
            return Attribute(same[0], "dtype") if same else Literal(value)
        if value is None or isinstance(value, str | torch.device | torch.memory_format | torch.layout):
            if any(v != value for v in seen):
                raise UnfitError(f"'{node.name}' crosses the cut as {value!r}, which depends on the batch")
            return Literal(value)
        if type(value) is int:
            for index, found in tensors:
                for dim in range(found[0].dim()):
                    if _is_size(node, seen, wires[index].node, found, dim) and not path:
                        return Size(index, dim)
        if isinstance(value, int | float):
            return wire(value, node, path)
        raise UnfitError(
            f"a {type(value).__name__} ('{node.name}') would have to cross the cut; only tensors and numbers can"
        )

    recipes: dict[fx.Node, Any] = {}
    for node in crossing:
        if not samples:
            recipes[node] = wire(None, node, ())
        elif isinstance(samples[0][node.name], Tensor):
            recipes[node] = wire(samples[0][node.name], node, ())
        else:
            later.append(node)
    for node in later:
        recipes[node] = _describe(samples[0][node.name], partial(leaf, node))
    if not samples:
        devices = [n for n in crossing if n.op == "call_function" and n.target is getattr and n.args[1] == "device"]
        kept = [w for w in wires if w.node not in devices]
        if devices and kept:
            return Border(kept, recipes | {node: Attribute(0, "device") for node in devices})
    return Border(wires, recipes)


def rebuild(graph: fx.Graph, recipe: Any, placeholders: Mapping[Wire, fx.Node], wires: Sequence[Wire]) -> Any:
    """Return the value of a recipe in a new graph, made from the placeholders of the wires."""
    if isinstance(recipe, Wire):
        return placeholders[recipe]
    if isinstance(recipe, Size):
        return graph.call_method("size", (placeholders[wires[recipe.index]], recipe.dim))
    if isinstance(recipe, Attribute):
        return graph.call_function(getattr, (placeholders[wires[recipe.index]], recipe.name))
    if isinstance(recipe, Literal):
        return recipe.value
    items = [rebuild(graph, item, placeholders, wires) for item in recipe.items]
    if recipe.keys is not None:
        named = dict(zip(recipe.keys, items, strict=True))
        return named if recipe.kind is dict else graph.call_function(recipe.kind, (), named)
    if hasattr(recipe.kind, "_fields"):
        return graph.call_function(recipe.kind, tuple(items), {})
    return recipe.kind(items)


def extract(graph: fx.Graph, value: Any, path: Sequence[Any]) -> Any:
    """Return the item at ``path`` of a value in a graph."""
    for key in path:
        value = graph.call_function(operator.getitem, (value, key)) if isinstance(value, fx.Node) else value[key]
    return value
