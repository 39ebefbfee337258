"""Cut a program after its cut points, and find everything that crosses.

Program order is kept, so that random numbers are drawn and buffers are written in the uncut model's order.  What one
part computes and a later one uses crosses each cut in between.  Sizes, devices and dtypes of tensors are read where
the tensor is, so that an input does not cross for its shape alone; a batch size is read off a tensor that crosses
anyway, where the two agree at several batch sizes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from cutlayer.cutting.borders import Border, Values, border_of, extract, is_item, is_metadata, rebuild
from cutlayer.cutting.program import Program, UnfitError, is_pure
from cutlayer.errors import CutError


@dataclass(frozen=True)
class Pieces:
    """A program cut in parts: their graphs, the borders between them, and which part each node belongs to."""

    graphs: tuple[fx.Graph, ...]
    borders: tuple[Border, ...]
    stages: Mapping[fx.Node, int]


def last_node(graph: fx.Graph, name: str) -> fx.Node:
    """Return the last node of the submodule ``name`` or inside it; raise CutError if forward never calls it."""
    found: list[fx.Node] = [
        node
        for node in graph.nodes
        if (node.op == "call_module" and f"{node.target}.".startswith(f"{name}."))
        or name in node.meta.get("inside", ())
    ]
    if not found:
        raise CutError(f"'{name}' is never called in forward, so nothing can be cut after it; name one that is")
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


def _holds_items(node: fx.Node, samples: Sequence[Values], by_name: bool) -> bool:
    """Return whether ``node`` is a tuple or dict of values; ``by_name``, one with its items as attributes."""
    if samples:
        value = samples[0][node.name]
        named = dataclasses.is_dataclass(value) or hasattr(value, "_fields")
        return isinstance(value, tuple | list | dict) and (named or not by_name)
    if by_name:
        return False
    shape = node.op == "call_function" and node.target is getattr and node.args[1] == "shape"
    size = node.op == "call_method" and node.target == "size" and len(node.args) == 1
    return shape or size or (node.op == "call_module" and all(is_item(user) for user in node.users))


def _stages(graph: fx.Graph, cuts: Sequence[str], samples: Sequence[Values]) -> dict[fx.Node, int]:
    order = {node: i for i, node in enumerate(graph.nodes)}
    ends = [order[last_node(graph, name)] for name in cuts]
    if sorted(set(ends)) != ends:
        raise CutError(f"'{cuts[1]}' does not run after '{cuts[0]}'; name the cuts in the order they run")
    stages: dict[fx.Node, int] = {}
    for node in graph.nodes:
        stages[node] = 0 if node.op == "placeholder" else sum(order[node] > end for end in ends)
        source = node.args[0] if node.args else None
        if isinstance(source, fx.Node) and stages[source] < stages[node]:
            unconditional = is_metadata(node) and all(stages[a] <= stages[source] for a in node.all_input_nodes)
            if unconditional or (is_item(node) and _holds_items(source, samples, node.target is getattr)):
                stages[node] = stages[source]
    for node in reversed(list(graph.nodes)):
        if node.op == "get_attr" and node.users:
            stages[node] = min(stages[user] for user in node.users)
    return stages


def _part(
    graph: fx.Graph, index: int, stages: Mapping[fx.Node, int], again: frozenset[fx.Node], around: tuple[Any, Any]
) -> fx.Graph:
    """Build the graph of one part between two borders (None at the ends of the model)."""
    before, after = around
    new = fx.Graph()
    env: dict[fx.Node, Any] = {}
    wires = [] if before is None else before.wires
    placeholders = {wire: new.placeholder(f"in_{i}") for i, wire in enumerate(wires)}

    def local(node: fx.Node) -> Any:
        if node not in env:
            if before is not None and node in before.recipes:
                env[node] = rebuild(new, before.recipes[node], placeholders, wires)
            elif node.op == "get_attr":
                env[node] = new.create_node("get_attr", node.target)
            else:
                copy(node)
        return env[node]

    def copy(node: fx.Node) -> None:
        args, kwargs = fx.map_arg((node.args, node.kwargs), local)
        env[node] = new.create_node(node.op, node.target, args, kwargs, node.name)

    for node in graph.nodes:
        if stages[node] != index or node.op in ("output", "get_attr") or node in env:
            continue
        if node.users or not (is_metadata(node) or node in again):
            copy(node)
    if after is None:
        output = next(node for node in graph.nodes if node.op == "output")
        new.output(fx.map_arg(output.args[0], local))
    else:
        sent = [extract(new, local(wire.node), wire.path) for wire in after.wires]
        new.output(sent[0] if len(sent) == 1 else tuple(sent))
    _follow_device(new)
    return new


def _is_size_item(node: fx.Node) -> bool:
    return is_item(node) and is_metadata(node.args[0])  # type: ignore[arg-type]


def _follow_device(graph: fx.Graph) -> None:
    """Where an exported operator has a fixed device, use the device of what the part receives."""
    anchor = next((node for node in graph.nodes if node.op == "placeholder"), None)
    device = None
    for node in list(graph.nodes):
        fixed = isinstance(node.target, torch._ops.OpOverload) and isinstance(node.kwargs.get("device"), torch.device)
        if fixed and anchor is not None:
            if device is None:
                with graph.inserting_before(node):
                    device = graph.call_function(getattr, (anchor, "device"))
            node.kwargs = {**node.kwargs, "device": device}


def _from_sizes(graph: fx.Graph) -> frozenset[fx.Node]:
    """Return the nodes whose value depends on sizes alone: positions, causal masks.  They are computed again."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        operator_only = isinstance(node.target, torch._ops.OpOverload) and not is_metadata(node)
        arithmetic = node.op == "call_function" and getattr(node.target, "__module__", "") == "_operator"
        pure = (operator_only or arithmetic) and is_pure(node) and "empty" not in str(node.target)
        if (
            pure
            and not _is_size_item(node)
            and all(n in found or is_metadata(n) or _is_size_item(n) for n in node.all_input_nodes)
        ):
            found.add(node)
    for node in reversed(list(graph.nodes)):
        if node in found and any(
            user not in found and not is_pure(user) and user.op == "call_function" for user in node.users
        ):
            spoiled = [node]
            while spoiled:
                written = spoiled.pop()
                if written in found:
                    found.discard(written)
                    spoiled += [*written.all_input_nodes, *written.users]
    return frozenset(found)


def _crossing(graph: fx.Graph, stages: Mapping[fx.Node, int], border: int, again: frozenset[fx.Node]) -> list[fx.Node]:
    """Return the nodes before a border whose values are needed after it."""
    todo = [n for n in graph.nodes if stages[n] < border and any(stages[u] >= border for u in n.users)]
    found: set[fx.Node] = set()
    while todo:
        node = todo.pop()
        if node in again:
            todo += [n for n in node.all_input_nodes if stages[n] < border]
        else:
            found.add(node)
    return [node for node in graph.nodes if node in found]


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
        CutError: a cut is never called, the order is wrong, or nothing is left on the other side.
        UnfitError: something crosses that cannot be sent.
    """
    graph = program.graph
    _merge_states(graph, persistent)
    stages = _stages(graph, cuts, samples)
    again = _from_sizes(graph)
    borders = []
    for index, cut in enumerate(cuts, start=1):
        crossing = _crossing(graph, stages, index, again)
        crossing = [n for n in crossing if n.op != "get_attr" or n.target in persistent]
        if not any(_computes(n) for n in graph.nodes if stages[n] >= index):
            raise CutError(f"nothing runs after '{cut}', so nothing is left for the other side; cut earlier")
        if not crossing:
            raise UnfitError(f"nothing that '{cut}' or the modules before it compute is used after it")
        end = last_node(graph, cut)
        crossing.sort(key=lambda n: not _comes_from(n, end))
        borders.append(border_of(crossing, samples))
    around = [None, *borders, None]
    graphs = tuple(_part(graph, i, stages, again, (around[i], around[i + 1])) for i in range(len(cuts) + 1))
    return Pieces(graphs, tuple(borders), stages)


def _computes(node: fx.Node) -> bool:
    """Return whether the node does any work, other than packing values up."""
    packs = node.op == "call_function" and (isinstance(node.target, type) or is_item(node))
    return node.op not in ("placeholder", "output", "get_attr") and not packs


def _comes_from(node: fx.Node, end: fx.Node) -> bool:
    while is_item(node):
        if node is end:
            return True
        node = node.args[0]  # type: ignore[assignment]
    return node is end
