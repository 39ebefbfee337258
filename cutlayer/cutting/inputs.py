"""The inputs of a model, as one example gives them: which arguments of ``forward``, and the tensors inside them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from cutlayer.errors import CutError


@dataclass(frozen=True)
class Inputs:
    """How a model is called: the names of its arguments, and where the tensors sit in their structure.

    A tensor anywhere in the arguments is an input of the cut model; anything else (a flag, None, a string) is a
    constant of this split.  ``leaves`` turns a call into the flat list of tensors, ``call`` turns it back.

    Attributes:
        names: arguments in the order of the example.
        keyword: whether the uncut model takes them by name (the example was a dict) or by position.
        spec: structure of the list of argument values.
        slots: for each leaf of that structure, True where it is a tensor.
        constants: the leaves that are no tensors, in order.
        labels: a valid Python identifier for each tensor.
    """

    names: tuple[str, ...]
    keyword: bool
    spec: pytree.TreeSpec
    slots: tuple[bool, ...]
    constants: tuple[Any, ...]
    labels: tuple[str, ...]
    plain: bool

    def __deepcopy__(self, memo: dict[int, Any]) -> Inputs:
        return self

    def leaves(self, args: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Return the tensors of a call, in a fixed order; raise CutError if it is not called as the example was."""
        if self.plain and not named and len(args) == len(self.names):
            return args
        values = self._values(args, named)
        leaves, spec = pytree.tree_flatten(values)
        if spec != self.spec:
            raise CutError(
                f"the encoder takes {', '.join(self.names)} structured as in the example ({self.spec}), "
                f"but was called with {spec}; call it as the example does, or split with another example"
            )
        fixed = iter(self.constants)
        tensors = []
        for leaf, is_tensor in zip(leaves, self.slots, strict=True):
            if is_tensor:
                if not isinstance(leaf, Tensor):
                    raise CutError(
                        f"the encoder takes a tensor where the example had one, but got {leaf!r}; "
                        f"split with an example that has the same arguments"
                    )
                tensors.append(leaf)
            elif not _same(leaf, next(fixed)):
                raise CutError(
                    f"argument value {leaf!r} differs from the example's, which is fixed in this split; "
                    f"split again with an example that has it"
                )
        return tuple(tensors)

    def _values(self, args: tuple[Any, ...], named: Mapping[str, Any]) -> list[Any]:
        given = dict(zip(self.names, args, strict=False)) | dict(named)
        missing = [name for name in self.names if name not in given]
        unknown = [name for name in given if name not in self.names]
        if len(args) > len(self.names) or missing or unknown:
            came = f"{len(args)} positional" + (f" and {', '.join(named)} by name" if named else "")
            raise CutError(
                f"the encoder takes the inputs of the example ({', '.join(self.names)}), but got {came}; "
                f"call it with these, or split with another example"
            )
        return [given[name] for name in self.names]

    def call(self, leaves: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return positional and keyword arguments of the uncut model with ``leaves`` in the places of the tensors."""
        tensors, fixed = iter(leaves), iter(self.constants)
        values = pytree.tree_unflatten([next(tensors) if t else next(fixed) for t in self.slots], self.spec)
        return ((), dict(zip(self.names, values, strict=True))) if self.keyword else (tuple(values), {})


def _same(left: Any, right: Any) -> bool:
    return left is right or (type(left) is type(right) and bool(left == right))


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    return list(inspect.signature(model.forward).parameters.values())


def _positional_names(model: nn.Module, count: int) -> list[str]:
    names: list[str] = []
    for parameter in _parameters(model):
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{i}" for i in range(count - len(names))]
        elif parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    if count > len(names):
        raise CutError(
            f"the example has {count} inputs, but {type(model).__name__}.forward takes {', '.join(names) or 'none'}; "
            f"give a tensor, a tuple of positional inputs or a dict of named ones"
        )
    return names[:count]


def _build(names: Sequence[str], values: list[Any], keyword: bool) -> tuple[Inputs, tuple[Tensor, ...]]:
    leaves, spec = pytree.tree_flatten(values)
    slots = tuple(isinstance(leaf, Tensor) for leaf in leaves)
    labels = []
    for name, value in zip(names, values, strict=True):
        inner = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
        labels += [name] if isinstance(value, Tensor) else [f"{name}_{i}" for i in range(len(inner))]
    constants = tuple(leaf for leaf in leaves if not isinstance(leaf, Tensor))
    plain = all(isinstance(value, Tensor) for value in values)
    inputs = Inputs(tuple(names), keyword, spec, slots, constants, tuple(labels), plain)
    return inputs, tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))


def read_example(model: nn.Module, example: Any) -> tuple[Inputs, tuple[Tensor, ...]]:
    """Return how ``example`` calls ``model`` and its tensors.

    A tensor is one positional input, a tuple or list several, a mapping named ones.  Raises CutError otherwise.
    """
    if isinstance(example, Tensor):
        example = (example,)
    if isinstance(example, Mapping):
        inputs, leaves = _build([str(name) for name in example], list(example.values()), keyword=True)
    elif isinstance(example, tuple | list):
        inputs, leaves = _build(_positional_names(model, len(example)), list(example), keyword=False)
    else:
        raise CutError(
            f"an example is a tensor, a tuple of positional inputs or a dict of named ones, "
            f"but it is a {type(example).__name__}; wrap it in a tuple"
        )
    if not leaves:
        raise CutError("the example has no tensor in it; give the inputs of one batch, batch dimension first")
    return inputs, leaves


def read_signature(model: nn.Module) -> Inputs:
    """Return how ``model`` is called when its required arguments are given as tensors and nothing else is."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p for p in _parameters(model) if p.default is inspect.Parameter.empty]
    if any(p.kind not in kinds for p in required) or not required:
        raise CutError(
            f"the arguments of {type(model).__name__}.forward are not plain positional ones, so an example is needed: "
            f"split(model, at=..., example=...)"
        )
    return _build([p.name for p in required], [torch.empty(0) for _ in required], keyword=False)[0]


def batch_of(leaves: Sequence[Tensor]) -> int:
    """Return the batch size: the first dimension of the first tensor that has one (0 if none has)."""
    return next((leaf.size(0) for leaf in leaves if leaf.dim()), 0)


def doubled(leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return a batch twice as large: each batched tensor followed by itself in reverse order."""
    size = batch_of(leaves)
    return tuple(torch.cat([t, t.flip(0)]) if t.dim() and t.size(0) == size else t for t in leaves)


def first(leaves: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
    """Return the first sample as a batch of one, or None where not every input has the batch as first dimension."""
    size = batch_of(leaves)
    if any(not t.dim() or t.size(0) != size for t in leaves):
        return None
    return tuple(t[:1] for t in leaves)


def shortened(leaves: Sequence[Tensor]) -> tuple[Tensor, ...] | None:
    """Return the batch with shorter sequences: one token less, where tokens are integers of shape [batch, length]."""
    size = batch_of(leaves)
    lengths = {t.size(1) for t in leaves if t.dim() == 2 and t.size(0) == size and not t.is_floating_point()}
    if len(lengths) != 1 or min(lengths) < 3:
        return None
    (length,) = lengths
    return tuple(t[:, :-1] if t.dim() > 1 and t.size(0) == size and t.size(1) == length else t for t in leaves)
