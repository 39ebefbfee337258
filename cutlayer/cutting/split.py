"""Cut any model: choose a way that fits, prove it on the example, or say why there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from torch import Tensor, nn

from cutlayer.cutting.children import by_children
from cutlayer.cutting.export import export
from cutlayer.cutting.inputs import Inputs, doubled, read_example, read_signature, shortened
from cutlayer.cutting.model import ROLES, SplitModel, crossings
from cutlayer.cutting.owners import owners, persistent_buffers
from cutlayer.cutting.part import Part, compile_graph, place
from cutlayer.cutting.partition import partition
from cutlayer.cutting.program import Program, UnfitError, ancestors, values
from cutlayer.cutting.submodules import aliases, check_model, resolve
from cutlayer.cutting.trace import trace
from cutlayer.cutting.verify import check, check_example, check_memory
from cutlayer.errors import CutError

Tracing = Callable[[nn.Module, frozenset[str], Inputs, Sequence[Tensor]], Mapping[bool, Program]]


def _fx(
    model: nn.Module, containers: frozenset[str], inputs: Inputs, leaves: Sequence[Tensor]
) -> Mapping[bool, Program]:
    return trace(model, containers, inputs)


TRACINGS: dict[str, Tracing] = {"fx": _fx, "export": export}
METHODS = ("fx", "children", "export")


def split(model: nn.Module, at: str | Sequence[str], example: Any = None, *, method: str = "auto") -> SplitModel:
    """Cut ``model`` right after the submodules named in ``at``.

    Args:
        model: any module.  It is left as it is; the parts share its parameters.  (Of a Hugging Face model the setting
            ``config.use_cache`` is switched off: a key-value cache serves generation, and cannot be cut.)
        at: one submodule (encoder, backbone) or two in the order they run (encoder, backbone, head).  A submodule that
            is called several times is cut after its last call.
        example: one batch of inputs, batch dimension first: a tensor, a tuple of positional inputs, or a dict of named
            ones.  Arguments the example does not give keep their defaults, and values that are no tensors are fixed.
            Without an example only fx is tried, and nothing is verified until ``SplitModel.verify``.
        method: "fx", "export", "children", or "auto": the first of these that gives, on the example and at other batch
            sizes, the uncut model's outputs, gradients and buffers bit for bit.

    Raises:
        CutError: the model cannot be cut there; the message says why, for every method that was tried.
    """
    check_model(model)
    if method not in ("auto", *METHODS):
        raise CutError(
            f"method is one of auto, {', '.join(METHODS)}, but it is {method!r}; leave it out to try them all"
        )
    if getattr(getattr(model, "config", None), "use_cache", None) is True:
        model.config.use_cache = False  # type: ignore[union-attr]
    cuts = resolve(model, at)
    inputs, leaves = (read_signature(model), ()) if example is None else read_example(model, example)
    if leaves:
        check_example(model, inputs, leaves)
        check_memory(model, inputs, leaves)
    tried: tuple[str, ...] = METHODS if method == "auto" else (method,)
    if example is None:
        tried = tuple(m for m in tried if m == "fx")
    reasons = []
    for name in tried:
        try:
            return _split_by(name, model, cuts, inputs, leaves)
        except UnfitError as error:
            reasons.append(f"{name}: {error}")
    where = " and ".join(f"'{cut}'" for cut in cuts)
    hint = "; give an example, so that other methods can be tried" if example is None else ""
    raise CutError(f"{type(model).__name__} cannot be cut after {where}: {'; '.join(reasons)}{hint}")


def _split_by(
    method: str, model: nn.Module, cuts: tuple[str, ...], inputs: Inputs, leaves: tuple[Tensor, ...]
) -> SplitModel:
    containers = ancestors(aliases(model, cuts))
    if method == "children":
        result = by_children(model, containers, cuts, inputs, leaves)
    else:
        programs = TRACINGS[method](model, containers, inputs, leaves)
        result = assemble(method, model, programs, cuts, inputs, leaves)
    if leaves:
        check(model, list(result.parts.values()), inputs, leaves)
    return result


def assemble(
    method: str,
    model: nn.Module,
    programs: Mapping[bool, Program],
    cuts: tuple[str, ...],
    inputs: Inputs,
    leaves: tuple[Tensor, ...],
) -> SplitModel:
    """Cut both modes' programs and give each part its code and what it owns; nothing is verified."""
    persistent = persistent_buffers(model)
    cut = {}
    samples: dict[bool, list[dict[str, Any]]] = {}
    for training, program in programs.items():
        samples[training] = _samples(model, program, training, leaves)
        cut[training] = (program, partition(program, cuts, samples[training], persistent))
    codes: list[dict[bool, Any]] = [
        {training: compile_graph(pieces.graphs[i]) for training, (_, pieces) in cut.items()}
        for i in range(len(cuts) + 1)
    ]
    parts = [Part(code, inputs if i == 0 else None) for i, code in enumerate(codes)]
    for part in parts:
        part.training = model.training
    for unit, indices in owners(model, cut, cuts):
        for index in indices:
            place(parts[index], unit.name, unit.kind, unit.value)
    for program, pieces in cut.values():
        for i, graph in enumerate(pieces.graphs):
            for node in graph.nodes:
                if node.op == "get_attr":
                    _place_constant(parts[i], model, program, str(node.target))
    described = crossings(cut[True][1].borders, cuts, samples[True], leaves)
    return SplitModel(model, dict(zip(ROLES, parts, strict=False)), cuts, method, described, inputs)


def _samples(model: nn.Module, program: Program, training: bool, leaves: tuple[Tensor, ...]) -> list[dict[str, Any]]:
    if not leaves:
        return []
    try:
        found = [values(model, program, training, [t.detach().clone() for t in leaves])]
    except Exception as error:
        first_line = str(error).strip().split("\n")[0]
        raise UnfitError(f"its graph does not run on the example ({first_line})") from error
    for other in (doubled(leaves), shortened(leaves)):
        if other is not None:
            with suppress(Exception):  # the uncut model may itself have a fixed batch size; verification tells
                found.append(values(model, program, training, other))
    return found


def _place_constant(part: nn.Module, model: nn.Module, program: Program, target: str) -> None:
    """Give the part what its code reads and no unit brought: constants, plain tensor attributes."""
    home: Any = part
    for atom in target.split("."):
        home = getattr(home, atom, None)
        if home is None:
            break
    else:
        return
    value: Any = program.constants.get(target)
    if value is None:
        value = model
        for atom in target.split("."):
            value = getattr(value, atom)
    kind = "parameter" if isinstance(value, nn.Parameter) else "scratch"
    place(part, target, kind, value)
