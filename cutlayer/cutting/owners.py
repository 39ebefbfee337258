"""Which part owns which parameter, buffer and submodule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from torch import nn

from cutlayer.cutting.partition import Pieces
from cutlayer.cutting.program import Program
from cutlayer.errors import CutError


@dataclass(frozen=True)
class Unit:
    """Something that belongs to parts as a whole: a submodule, or a direct parameter or buffer of a container."""

    name: str
    kind: str
    value: Any

    def tensors(self) -> Iterator[Any]:
        """Yield the parameters and buffers in it."""
        if self.kind == "module":
            yield from chain(self.value.parameters(), self.value.buffers())
        elif self.value is not None:
            yield self.value


def persistent_buffers(model: nn.Module) -> frozenset[str]:
    """Return the names of the buffers in the model's ``state_dict``."""
    state = model.state_dict(keep_vars=True)
    return frozenset(name for name, _ in model.named_buffers() if name in state)


def names_of(model: nn.Module, tensor: Any) -> list[str]:
    """Return every name a parameter or buffer has in the model."""
    named = chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    return [name for name, value in named if value is tensor]


def _units(model: nn.Module, called: set[int], read: set[int], module: nn.Module, prefix: str) -> Iterator[Unit]:
    for name, parameter in module._parameters.items():
        yield Unit(prefix + name, "parameter", parameter)
    for name, buffer in module._buffers.items():
        persistent = name not in module._non_persistent_buffers_set
        yield Unit(prefix + name, "buffer" if persistent else "scratch", buffer)
    for name, child in module._modules.items():
        if child is None:
            continue
        inner = chain(map(id, child.modules()), map(id, child.parameters()), map(id, child.buffers()))
        if id(child) not in called and any(i in called or i in read for i in inner):
            yield from _units(model, called, read, child, f"{prefix}{name}.")
        else:
            yield Unit(prefix + name, "module", child)


def _uses(model: nn.Module, pieces: Pieces, program: Program) -> Iterator[tuple[Any, int, bool]]:
    """Yield every module called and tensor read, the part that does it, and whether it is called.

    A buffer of the ``state_dict`` is read in one part only; from there its value crosses (see ``partition``).
    """
    persistent = persistent_buffers(model)
    for node, stage in pieces.stages.items():
        if node.op == "call_module":
            yield model.get_submodule(str(node.target)), stage, True
        elif node.op == "get_attr" and node.target not in program.constants:
            value: Any = model
            for atom in str(node.target).split("."):
                value = getattr(value, atom)
            for part in {stage} if node.target in persistent else {pieces.stages[user] for user in node.users}:
                yield value, part, False


def owners(
    model: nn.Module, programs: Mapping[bool, tuple[Program, Pieces]], cuts: Sequence[str]
) -> list[tuple[Unit, frozenset[int]]]:
    """Return every unit of the model with the parts it belongs to.

    A unit with state belongs to the part that uses it, or, if forward never does, to the part of the unit before it.
    A unit without any (an activation, a dropout) may belong to several parts.

    Raises:
        CutError: a parameter or a buffer of the ``state_dict`` is used on both sides of a cut.
    """
    uses: dict[int, set[int]] = {}
    called: set[int] = set()
    read: set[int] = set()
    for program, pieces in programs.values():
        for value, stage, is_call in _uses(model, pieces, program):
            (called if is_call else read).add(id(value))
            uses.setdefault(id(value), set()).add(stage)
            if isinstance(value, nn.Module):
                for inner in chain(value.parameters(), value.buffers()):
                    uses.setdefault(id(inner), set()).add(stage)
    return owners_of(model, uses, called, read, cuts)


def owners_of(
    model: nn.Module,
    uses: Mapping[int, set[int]],
    called: set[int],
    read: set[int],
    cuts: Sequence[str],
    containers: frozenset[str] = frozenset(),
) -> list[tuple[Unit, frozenset[int]]]:
    """Return the owners (see ``owners``) from the parts that use each object, by id.

    Args:
        model: the uncut model.
        uses: the parts in which each called module and each tensor is used.
        called: ids of the modules that are called as a whole.
        read: ids of the tensors that containers use directly.
        cuts: names of the cut points, for the message.
        containers: names of modules that are to be opened even if nothing in them is used.
    """
    _refuse_shared(model, uses, cuts)
    found: list[tuple[Unit, frozenset[int]]] = []
    here = frozenset({0})
    opened = {id(model.get_submodule(name)) for name in containers}
    for unit in _units(model, called, read | opened, model, ""):
        parts = frozenset(chain(uses.get(id(unit.value), ()), *(uses.get(id(t), ()) for t in unit.tensors())))
        if parts:
            here = frozenset({max(parts)})
        found.append((unit, parts or here))
    return found


def _refuse_shared(model: nn.Module, uses: Mapping[int, set[int]], cuts: Sequence[str]) -> None:
    state = set(model.state_dict(keep_vars=True))
    for kind, named in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
        for name, tensor in named:
            parts = sorted(uses.get(id(tensor), ()))
            if len(parts) > 1 and (kind == "parameter" or name in state):
                others = [other for other in names_of(model, tensor) if other != name]
                also = f" (also {', '.join(map(repr, others))})" if others else ""
                where = cuts[parts[0]] if parts[-1] - parts[0] == 1 else cuts[-1]
                hint = "untie it or choose" if others else "choose"
                if others and hasattr(getattr(model, "config", None), "tie_word_embeddings"):
                    hint = "untie it (config.tie_word_embeddings=False) or choose"
                raise CutError(
                    f"{kind} '{name}'{also} is used on both sides of the cut after '{where}'; {hint} another cut"
                )
