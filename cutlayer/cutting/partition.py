"""Cut a program after its cut points, and find everything that crosses.

Program order is kept, so that random numbers are drawn and buffers are written in the uncut model's order.  What one
part computes and a later one uses crosses each cut in between.  Sizes, devices and dtypes of tensors are read where
the tensor is, so that an input does not cross for its shape alone; a batch size is read off a tensor that crosses
anyway, where the two agree at several batch sizes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from cutlayer.cutting.program import Program, Rejected

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
    """An int that need not cross: the batch dimension of wire ``index``."""

    index: int


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


@dataclass(frozen=True)
class Pieces:
    """A program cut in parts: their graphs, the borders between them, and which part each node belongs to."""

    graphs: tuple[fx.Graph, ...]
    borders: tuple[Border, ...]
    stages: Mapping[fx.Node, int]


def last_node(graph: fx.Graph, name: str) -> fx.Node:
    """Return the last node of the submodule ``name``; raise Rejected if forward never calls it."""
    found = [n for n in graph.nodes if (n.op == "call_module" and n.target == name) or name in n.meta.get("inside", ())]
    if not found:
        raise Rejected(f"'{name}' is never called in forward, so nothing can be cut after it")
    return found[-1]


def _merge_states(graph: fx.Graph, persistent: frozenset[str]) -> None:
    """Read each persistent buffer once, in the part that reads it first."""
    seen: dict[str, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op == "get_attr" and node.target in persistent:
            if node.target in seen:
                node.replace_all_uses_with(seen[node.target])
                graph.erase_node(node)
            else:
                seen[node.target] = node


def _is_metadata(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in _METADATA_METHODS
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in _METADATA_ATTRIBUTES
    return node.op == "call_function" and node.target in _METADATA_OPS


def is_item(node: fx.Node) -> bool:
    """Return whether the node takes one item, by position or name, out of another node's value."""
    return (
        node.op == "call_function"
        and node.target is operator.getitem
        and isinstance(node.args[0], fx.Node)
        and isinstance(node.args[1], int | str)
    )


def _holds_items(node: fx.Node, samples: Sequence[Values]) -> bool:
    if samples:
        return isinstance(samples[0][node.name], tuple | list | dict)
    shape = node.op == "call_function" and node.target is getattr and node.args[1] == "shape"
    size = node.op == "call_method" and node.target == "size" and len(node.args) == 1
    return shape or size or (node.op == "call_module" and all(is_item(user) for user in node.users))


def _stages(graph: fx.Graph, cuts: Sequence[str], samples: Sequence[Values]) -> dict[fx.Node, int]:
    order = {node: i for i, node in enumerate(graph.nodes)}
    ends = [order[last_node(graph, name)] for name in cuts]
    if sorted(set(ends)) != ends:
        raise Rejected(f"'{cuts[1]}' does not run after '{cuts[0]}'; name the cuts in the order they run")
    stages: dict[fx.Node, int] = {}
    for node in graph.nodes:
        stages[node] = 0 if node.op == "placeholder" else sum(order[node] > end for end in ends)
        source = node.args[0] if node.args else None
        if isinstance(source, fx.Node) and stages[source] < stages[node]:
            unconditional = _is_metadata(node) and all(stages[a] <= stages[source] for a in node.all_input_nodes)
            if unconditional or (is_item(node) and _holds_items(source, samples)):
                stages[node] = stages[source]
    for node in reversed(list(graph.nodes)):
        if node.op == "get_attr" and node.users:
            stages[node] = min(stages[user] for user in node.users)
    return stages


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


def _border(crossing: Sequence[fx.Node], samples: Sequence[Values]) -> Border:
    wires: list[Wire] = []
    tensors: list[tuple[int, list[Tensor]]] = []
    later: list[fx.Node] = []

    def wire(value: Any, node: fx.Node, path: tuple[Any, ...]) -> Wire:
        new = Wire(node, path)
        wires.append(new)
        if isinstance(value, Tensor):
            tensors.append((len(wires) - 1, [_item(s[node.name], path) for s in samples]))
        return new

    def leaf(value: Any, node: fx.Node, path: tuple[Any, ...]) -> Any:
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
                raise Rejected(f"'{node.name}' crosses the cut as {value!r}, which depends on the batch")
            return Literal(value)
        if type(value) is int and len(set(seen)) > 1:
            for index, found in tensors:
                if [t.size(0) if t.dim() else None for t in found] == seen:
                    return Size(index)
        if isinstance(value, int | float):
            return wire(value, node, path)
        raise Rejected(
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
        recipes[node] = _describe(samples[0][node.name], lambda value, path, node=node: leaf(value, node, path))
    if not samples:
        devices = [n for n in crossing if n.op == "call_function" and n.target is getattr and n.args[1] == "device"]
        kept = [w for w in wires if w.node not in devices]
        if devices and kept:
            return Border(kept, recipes | {node: Attribute(0, "device") for node in devices})
    return Border(wires, recipes)


def _make(graph: fx.Graph, recipe: Any, placeholders: Mapping[Wire, fx.Node], wires: Sequence[Wire]) -> Any:
    if isinstance(recipe, Wire):
        return placeholders[recipe]
    if isinstance(recipe, Size):
        return graph.call_method("size", (placeholders[wires[recipe.index]], 0))
    if isinstance(recipe, Attribute):
        return graph.call_function(getattr, (placeholders[wires[recipe.index]], recipe.name))
    if isinstance(recipe, Literal):
        return recipe.value
    items = [_make(graph, item, placeholders, wires) for item in recipe.items]
    if recipe.keys is not None:
        named = dict(zip(recipe.keys, items, strict=True))
        return named if recipe.kind is dict else graph.call_function(recipe.kind, (), named)
    if hasattr(recipe.kind, "_fields"):
        return graph.call_function(recipe.kind, tuple(items), {})
    return recipe.kind(items)


def _extract(graph: fx.Graph, value: Any, path: Sequence[Any]) -> Any:
    for key in path:
        if isinstance(value, fx.Node):
            value = graph.call_function(operator.getitem, (value, key))
        else:
            value = value[key]
    return value


def _part(
    graph: fx.Graph, index: int, stages: Mapping[fx.Node, int], before: Border | None, after: Border | None
) -> fx.Graph:
    new = fx.Graph()
    env: dict[fx.Node, Any] = {}
    if before is not None:
        names = [f"in_{i}" for i in range(len(before.wires))]
        placeholders = {w: new.placeholder(name) for w, name in zip(before.wires, names, strict=True)}
        for node, recipe in before.recipes.items():
            if after is None or node in after.recipes or any(stages[user] == index for user in node.users):
                env[node] = _make(new, recipe, placeholders, before.wires)

    def local(node: fx.Node) -> Any:
        if node not in env and node.op == "get_attr":
            env[node] = new.create_node("get_attr", node.target)
        return env[node]

    for node in graph.nodes:
        if stages[node] == index and node.op not in ("output", "get_attr"):
            if not node.users and _is_metadata(node):
                continue
            args, kwargs = fx.map_arg((node.args, node.kwargs), local)
            env[node] = new.create_node(node.op, node.target, args, kwargs, node.name)
    if after is None:
        output = next(node for node in graph.nodes if node.op == "output")
        new.output(fx.map_arg(output.args[0], local))
    else:
        sent = [_extract(new, local(wire.node), wire.path) for wire in after.wires]
        new.output(sent[0] if len(sent) == 1 else tuple(sent))
    return new


def partition(
    program: Program, cuts: Sequence[str], samples: Sequence[Values], persistent: frozenset[str] = frozenset()
) -> Pieces:
    """Cut ``program`` after each of ``cuts``.

    Args:
        program: one mode of a model.
        cuts: names of its submodules in the order they run.
        samples: values of all nodes at several batch sizes (see ``program.values``); empty if there is no example.
        persistent: names of buffers in the ``state_dict``; they stay with the part that reads them first.

    Returns:
        One graph per part.  A part returns one bare value or a flat tuple; the next one takes these positionally.

    Raises:
        Rejected: a cut is never called, the order is wrong, or something crosses that cannot be sent.
    """
    graph = program.graph
    _merge_states(graph, persistent)
    stages = _stages(graph, cuts, samples)
    borders = []
    for index, cut in enumerate(cuts, start=1):
        users = [n for n in graph.nodes if stages[n] < index and any(stages[u] >= index for u in n.users)]
        crossing = [n for n in users if n.op != "get_attr" or n.target in persistent]
        if all(n.op in ("output", "get_attr") for n in graph.nodes if stages[n] >= index):
            raise Rejected(f"nothing runs after '{cut}', so there is nothing to put on the other side")
        if not crossing:
            raise Rejected(f"nothing that '{cut}' or the modules before it compute is used after it")
        end = last_node(graph, cut)
        crossing.sort(key=lambda n: not _comes_from(n, end))
        borders.append(_border(crossing, samples))
    around = [None, *borders, None]
    graphs = tuple(_part(graph, i, stages, around[i], around[i + 1]) for i in range(len(cuts) + 1))
    return Pieces(graphs, tuple(borders), stages)


def _comes_from(node: fx.Node, end: fx.Node) -> bool:
    while is_item(node):
        if node is end:
            return True
        node = node.args[0]  # type: ignore[assignment]
    return node is end
