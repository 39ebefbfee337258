"""The third way of cutting: run the model's own containers, with the other parts' submodules replaced by stand-ins.

It suits stacks of blocks whose containers decide by shapes, flags or values: the Python that decides is the model's
own, at every call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from cutlayer.cutting.inputs import Inputs, doubled, shortened
from cutlayer.cutting.model import ROLES, Crossing, SplitModel, batch_dim
from cutlayer.cutting.owners import Unit, owners_of
from cutlayer.cutting.program import UnfitError
from cutlayer.cutting.record import Record, Source, record
from cutlayer.cutting.replay import Answer, Blank, Plan, ReplayPart, Size, StandIn, Tap, TappedForward


def by_children(
    model: nn.Module, containers: frozenset[str], cuts: tuple[str, ...], inputs: Inputs, leaves: tuple[Tensor, ...]
) -> SplitModel:
    """Cut the model by its own children, unverified; raise UnfitError where its containers do not allow it."""
    if containers.intersection(cuts):
        raise UnfitError("one cut lies inside the module of the other")
    records = {training: _records(model, containers, cuts, inputs, leaves, training) for training in (True, False)}
    orders = {training: _wires(found[0], len(cuts)) for training, found in records.items()}
    plans = [{t: _plan(i, records[t], orders[t], len(leaves)) for t in (True, False)} for i in range(len(cuts) + 1)]
    parts = _build(model, containers, cuts, records, plans, inputs)
    described = _describe(cuts, records[True], orders[True], inputs, leaves)
    return SplitModel(model, dict(zip(ROLES, parts, strict=False)), cuts, "children", described, inputs)


def _records(
    model: nn.Module,
    containers: frozenset[str],
    cuts: tuple[str, ...],
    inputs: Inputs,
    leaves: tuple[Tensor, ...],
    training: bool,
) -> list[Record]:
    found = [record(model, containers, cuts, inputs, leaves, training)]
    for other in (doubled(leaves), shortened(leaves)):
        if other is None:
            continue
        try:
            again = record(model, containers, cuts, inputs, other, training)
        except UnfitError:
            continue
        if again.calls != found[0].calls or again.needs != found[0].needs:
            raise UnfitError("its containers call other submodules at another batch size or length")
        found.append(again)
    if found[0].carried:
        name = min(found[0].carried)
        raise UnfitError(
            f"a value made from parameter '{name}' before the cut is used by a container's forward after it"
        )
    return found


def _wires(seen: Record, count: int) -> list[tuple[Source, ...]]:
    """Return what crosses each cut: what any later stage needs of earlier ones; the cut's own output first."""
    position = {call: i for i, call in enumerate(seen.calls)}
    wires = []
    for border in range(1, count + 1):
        needed = {s for stage in range(border, count + 1) for s in seen.needs.get(stage, ()) if seen.birth[s] < border}
        if not needed:
            raise UnfitError("nothing computed before the cut is used after it")

        def order(source: Source) -> tuple[int, int]:
            return (-position[source.unit, source.call] if source.unit is not None else 1, source.leaf)

        wires.append(tuple(sorted(needed, key=order)))
    return wires


def _blank(source: Source, seen: Sequence[Record], received: Sequence[Source]) -> Blank:
    """Describe an empty stand-in for ``source``, its dimensions read off the tensors that are received."""
    sizes = []
    for dim in range(len(seen[0].shapes[source])):
        values = [run.shapes[source][dim] for run in seen]
        size = Size(values[0]) if len(set(values)) == 1 else None
        for wire, other in enumerate(received):
            for i in range(len(seen[0].shapes[other])):
                if size is None and [run.shapes[other][i] for run in seen] == values:
                    size = Size(values[0], wire, i)
        sizes.append(size or Size(values[0]))  # where nothing that crosses has it, nothing may depend on it
    return Blank(tuple(sizes), seen[0].dtypes[source])


def _plan(part: int, seen: Sequence[Record], wires: Sequence[tuple[Source, ...]], count: int) -> Plan:
    first = seen[0]
    last, cuts = dict(first.calls), first.cuts
    received = wires[part - 1] if part else ()
    sent = wires[part] if part < len(cuts) else None
    ends = [first.calls.index((cut, last[cut])) for cut in cuts]
    begin = ends[part - 1] + 1 if part else 0
    known = set(received)
    inputs = tuple(
        source if source in known else _blank(source, seen, received)
        for source in (Source(None, 0, i) for i in range(count if part else 0))
    )
    answers = {}
    for call in first.calls[:begin]:
        spec, leaves = first.outputs[call]
        answers[call] = Answer(
            spec, tuple(_leaf(Source(*call, i), leaf, known, seen, received) for i, leaf in enumerate(leaves))
        )
    specs = {(s.unit, s.call): first.outputs[s.unit, s.call][0] for s in sent or () if s.unit is not None}
    return Plan(
        received=received,
        sent=sent,
        start=first.calls[begin - 1] if part else None,
        stop=first.calls[ends[part]] if part < len(cuts) else None,
        inputs=inputs,
        answers=answers,
        specs=specs,
    )


def _leaf(source: Source, leaf: Any, known: set[Source], seen: Sequence[Record], received: Sequence[Source]) -> Any:
    if leaf is None:
        return source if source in known else _blank(source, seen, received)
    value = leaf[0]
    for run in seen[1:]:
        other = run.outputs[source.unit or "", source.call][1][source.leaf]
        if other is None or other[0] != value:
            raise UnfitError(f"'{source.unit}' returns a {type(value).__name__} that depends on the batch")
    if value is not None and not isinstance(value, int | float | str | bool):
        raise UnfitError(f"'{source.unit}' returns a {type(value).__name__}, which cannot cross a cut")
    return leaf


def _clean(module: nn.Module) -> nn.Module:
    """Return a module of the same class with the same plain attributes, and no tensors or submodules."""
    twin = module.__class__.__new__(module.__class__)
    for key, value in module.__dict__.items():
        if not any(isinstance(leaf, Tensor | nn.Module) for leaf in pytree.tree_leaves(value)):
            twin.__dict__[key] = value
    for table in ("_parameters", "_buffers", "_modules"):
        twin.__dict__[table] = {}
    twin.__dict__["_non_persistent_buffers_set"] = set()
    for key, value in module.__dict__.items():
        if key.endswith("_hooks") or key.startswith(("_forward", "_backward")):
            twin.__dict__[key] = value.copy() if hasattr(value, "copy") else value
    return twin


def _empty(tensor: Any) -> Any:
    return None if tensor is None else torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)


def _stand_in(module: nn.Module, name: str | None) -> nn.Module:
    """Return a module that looks like ``module`` to its container but holds nothing."""
    twin = _clean(module)
    for key in [k for k in twin.__dict__ if k.endswith("_hooks")]:
        twin.__dict__[key] = type(twin.__dict__[key])()
    for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
        twin.__dict__[key] = _empty(tensor)
    for key, child in module._modules.items():
        twin._modules[key] = None if child is None else _stand_in(child, None)
    if name is not None:
        twin.__dict__["forward"] = StandIn(name)
    return twin


def _tapped(module: nn.Module, name: str) -> nn.Module:
    """Return a module that is ``module`` (same tensors, same submodules) and shows what it returns."""
    twin = module.__class__.__new__(module.__class__)
    twin.__dict__.update(module.__dict__)
    if module._forward_hooks:
        twin.__dict__["_forward_hooks"] = module._forward_hooks.copy()
        twin.register_forward_hook(Tap(name))
    else:  # some modules take another path when they have hooks
        twin.__dict__["forward"] = TappedForward(twin, name)
    return twin


def _build(
    model: nn.Module,
    containers: frozenset[str],
    cuts: tuple[str, ...],
    records: Mapping[bool, Sequence[Record]],
    plans: Sequence[Mapping[bool, Plan]],
    inputs: Inputs,
) -> list[ReplayPart]:
    uses: dict[int, set[int]] = {}
    called, read = set(), set()
    names: dict[int, str] = {}
    for seen in records.values():
        for name, stages in seen[0].units.items():
            module = model.get_submodule(name)
            called.add(id(module))
            names[id(module)] = name
            for inner in (module, *module.parameters(), *module.buffers()):
                uses.setdefault(id(inner), set()).update(stages)
        for tensor, stages in seen[0].states.items():
            read.add(tensor)
            uses.setdefault(tensor, set()).update(stages)
    owned = owners_of(model, uses, called, read, cuts, containers)
    return [
        ReplayPart(_skeleton(model, "", owned, names, part, plan), plan, inputs, part == 0)
        for part, plan in enumerate(plans)
    ]


def _skeleton(
    module: nn.Module,
    prefix: str,
    owned: Sequence[tuple[Unit, frozenset[int]]],
    names: Mapping[int, str],
    part: int,
    plans: Mapping[bool, Plan],
) -> nn.Module:
    """Return a container that holds the units of one part, and stand-ins for all others."""
    units = {unit.name: (unit, part in parts) for unit, parts in owned}
    twin = _clean(module)
    for table, tensors in (("_parameters", module._parameters), ("_buffers", module._buffers)):
        for key, tensor in tensors.items():
            scratch = key in module._non_persistent_buffers_set
            if units[prefix + key][1] or scratch:
                twin.__dict__[table][key] = tensor
                if scratch:
                    twin._non_persistent_buffers_set.add(key)
            else:
                twin.__dict__[key] = _empty(tensor)
    tapped = {s.unit for plan in plans.values() for s in plan.sent or () if s.unit is not None} | {
        plan.stop[0] for plan in plans.values() if plan.stop is not None
    }
    for key, child in module._modules.items():
        name = prefix + key
        if child is None:
            twin._modules[key] = None
        elif name not in units:
            twin._modules[key] = _skeleton(child, f"{name}.", owned, names, part, plans)
        elif not units[name][1]:
            twin._modules[key] = _stand_in(child, names.get(id(child), name))
        elif names.get(id(child)) in tapped:
            twin._modules[key] = _tapped(child, names[id(child)])
        else:
            twin._modules[key] = child
    return twin


def _describe(
    cuts: Sequence[str],
    seen: Sequence[Record],
    wires: Sequence[tuple[Source, ...]],
    inputs: Inputs,
    leaves: Sequence[Tensor],
) -> tuple[Crossing, ...]:
    found = []
    size = max(next((t.size(0) for t in leaves if t.dim()), 1), 1)
    for cut, sources in zip(cuts, wires, strict=True):
        for source in sources:
            shapes = [run.shapes[source] for run in seen]
            dim = batch_dim(shapes, size)
            dtype = seen[0].dtypes[source]
            single = source.unit is None or len(seen[0].outputs[source.unit, source.call][1]) == 1
            name = inputs.labels[source.leaf] if source.unit is None else source.unit
            found.append(
                Crossing(
                    cut=cut,
                    name=name if single else f"{name}[{source.leaf}]",
                    shape=shapes[0] if dim is None else shapes[0][:dim] + shapes[0][dim + 1 :],
                    dtype=str(dtype).removeprefix("torch."),
                    batch_dim=dim,
                    bytes_per_sample=torch.Size(shapes[0]).numel() * dtype.itemsize / size,
                    differentiable=seen[0].differentiable[source],
                    passes_through=source.unit is None,
                )
            )
    return tuple(found)
