"""A cut model: its parts, what crosses between them, and the way back to the uncut model."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from cutlayer.cutting.borders import Border, Wire, is_item
from cutlayer.cutting.inputs import Inputs, batch_of, read_example
from cutlayer.cutting.part import Part, as_tuple
from cutlayer.cutting.program import UnfitError
from cutlayer.cutting.verify import check
from cutlayer.errors import CutError

ROLES = ("encoder", "backbone", "head")


@dataclass(frozen=True)
class Crossing:
    """One value that crosses a cut.

    Attributes:
        cut: the submodule after which the model is cut.
        name: the submodule or input whose value it is.
        shape: per sample, without the batch dimension; () for a number.
        dtype: such as "float32"; "int" or "float" for a Python number.
        batch_dim: the dimension that grows with the batch (0, or 1 for the state of a GRU); None for what is sent once
            a batch and does not depend on its size (rotary position embeddings, a number).
        bytes_per_sample: raw bytes of one direction, divided by the example's batch size (so what is sent once a batch
            is shared by its samples).
        differentiable: whether a gradient of the same size comes back.
        passes_through: whether it is an input of the model that goes through unchanged (a mask, an edge index).
    """

    cut: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    batch_dim: int | None
    bytes_per_sample: float
    differentiable: bool
    passes_through: bool


class SplitModel:
    """A model cut into an encoder, a backbone and, with two cuts, a head.

    The parts share the parameters of the model they were cut from.  Calling it runs the parts one after another and
    returns what the uncut model returns.

    Attributes:
        parts: the parts by role, in order.
        cuts: the submodules after which the model is cut.
        method: how it was cut: "fx", "export" or "children".
        crossings: what crosses each cut, in the order it is passed; empty where there was no example.
        inputs: how the encoder is called.
    """

    def __init__(
        self,
        model: nn.Module,
        parts: Mapping[str, Part],
        cuts: tuple[str, ...],
        method: str,
        crossings: tuple[Crossing, ...],
        inputs: Inputs,
    ) -> None:
        self.parts = dict(parts)
        self.cuts = cuts
        self.method = method
        self.crossings = crossings
        self.inputs = inputs
        self._model = model
        self._keys = tuple(model.state_dict())

    @property
    def encoder(self) -> Part:
        """The part at the client: from the inputs to the first cut."""
        return self.parts["encoder"]

    @property
    def backbone(self) -> Part:
        """The part at the server."""
        return self.parts["backbone"]

    @property
    def head(self) -> Part | None:
        """The part at the client after the second cut; None with one cut."""
        return self.parts.get("head")

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Run the parts in sequence and return the uncut model's output."""
        first, *others = self.parts.values()
        value = first(*args, **named)
        for part in others:
            value = part(*as_tuple(value))
        return value

    def __repr__(self) -> str:
        sizes = [f"{role} {sum(p.numel() for p in part.parameters()):,}" for role, part in self.parts.items()]
        return f"SplitModel(after {', '.join(self.cuts)} by {self.method}; parameters: {', '.join(sizes)})"

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of all parts."""
        for part in self.parts.values():
            yield from part.parameters()

    def train(self, mode: bool = True) -> SplitModel:
        """Switch all parts to train mode."""
        for part in self.parts.values():
            part.train(mode)
        return self

    def eval(self) -> SplitModel:
        """Switch all parts to eval mode."""
        return self.train(False)

    def to(self, *args: Any, **named: Any) -> SplitModel:
        """Move or cast all parts, as ``nn.Module.to`` does."""
        for part in self.parts.values():
            part.to(*args, **named)
        return self

    def state_dict(self) -> dict[str, Any]:
        """Return the uncut model's ``state_dict``: its keys in its order, its tensors those of the parts."""
        joined: dict[str, Any] = {}
        for part in self.parts.values():
            joined.update(part.state_dict())
        return {key: joined[key] for key in self._keys}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a ``state_dict`` of the uncut model; raise CutError if its keys are others."""
        missing = [key for key in self._keys if key not in state]
        unknown = [key for key in state if key not in self._keys]
        if missing or unknown:
            what = f"lacks {', '.join(missing[:3])}" if missing else f"has unknown {', '.join(unknown[:3])}"
            raise CutError(
                f"expected a state_dict of {type(self._model).__name__} with {len(self._keys)} keys, but it {what}; "
                f"load one of the uncut model"
            )
        for part in self.parts.values():
            try:
                part.load_state_dict({key: state[key] for key in part.state_dict()})
            except RuntimeError as error:
                raise CutError(f"a tensor of the state_dict does not fit the model ({_last_line(error)})") from error

    def copy(self) -> SplitModel:
        """Return an independent deep copy of the parts; the uncut model stays shared, as a reference only."""
        memo: dict[int, Any] = {}
        parts = {role: copy.deepcopy(part, memo) for role, part in self.parts.items()}
        twin = SplitModel.__new__(SplitModel)
        twin.__dict__.update(self.__dict__)
        twin.parts = parts
        return twin

    def verify(self, example: Any) -> None:
        """Prove the cut on an example (see ``split``); raise CutError if the parts differ from the uncut model."""
        _, leaves = read_example(self._model, example)
        inputs, _ = read_example(self._model, example)
        if inputs.names != self.inputs.names or inputs.slots != self.inputs.slots:
            raise CutError(
                f"this split takes {', '.join(self.inputs.names)}, but the example has {', '.join(inputs.names)}; "
                f"give the same inputs, or split again with this example"
            )
        model = self._model
        if not self._shares(model):
            model = copy.deepcopy(model)
            model.load_state_dict(self.state_dict())
            place = next(self.parameters(), None)
            if place is not None:
                model.to(place.device, place.dtype)
        try:
            check(model, list(self.parts.values()), self.inputs, leaves)
        except UnfitError as error:
            raise CutError(f"the cut after {', '.join(map(repr, self.cuts))} is not exact: {error}") from error

    def _shares(self, model: nn.Module) -> bool:
        ours, theirs = self.state_dict(), model.state_dict()
        return all(
            not isinstance(ours[key], Tensor) or ours[key].data_ptr() == theirs[key].data_ptr() for key in self._keys
        )


def crossings(
    borders: Sequence[Border], cuts: Sequence[str], samples: Sequence[Mapping[str, Any]], leaves: Sequence[Tensor]
) -> tuple[Crossing, ...]:
    """Describe what crosses each cut, from the values of all nodes on the example and on another batch size."""
    if not samples:
        return ()
    found = []
    size = max(batch_of(leaves), 1)
    for border, cut in zip(borders, cuts, strict=True):
        for wire in border.wires:
            seen = [sample[wire.node.name] for sample in samples]
            for key in wire.path:
                seen = [value[key] for value in seen]
            found.append(describe(cut, _name(wire), seen, size, wire.node.op == "placeholder"))
    return tuple(found)


def _name(wire: Wire) -> str:
    node, path = wire.node, wire.path
    while is_item(node):
        node, path = node.args[0], (node.args[1], *path)  # type: ignore[assignment]
    name = str(node.target if node.op == "call_module" else node.name)
    return name + "".join(f"[{key!r}]" for key in path)


def describe(cut: str, name: str, seen: Sequence[Any], size: int, passes_through: bool) -> Crossing:
    """Describe one crossing value by its values at several batch sizes, the example's (``size``) first."""
    value = seen[0]
    if not isinstance(value, Tensor):
        return Crossing(cut, name, (), type(value).__name__, None, 8 / size, False, passes_through)
    shapes = [tuple(v.shape) for v in seen]
    total = value.numel() * value.element_size() / size
    dim = batch_dim(shapes, size)
    shape = shapes[0] if dim is None else shapes[0][:dim] + shapes[0][dim + 1 :]
    dtype = str(value.dtype).removeprefix("torch.")
    return Crossing(cut, name, shape, dtype, dim, total, value.requires_grad, passes_through)


def batch_dim(shapes: Sequence[tuple[int, ...]], size: int) -> int | None:
    """Return the dimension that grows from the first batch to the second, or, of one batch, the first if it fits."""
    if len(shapes) == 1:
        return 0 if shapes[0] and shapes[0][0] == size else None
    grows = [i for i, (one, two) in enumerate(zip(shapes[0], shapes[1], strict=True)) if two > one]
    return grows[0] if grows else None


def _last_line(error: Exception) -> str:
    return str(error).strip().split("\n")[-1].strip()
