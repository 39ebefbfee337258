"""Watch one run of the uncut model: which submodules the containers call, and what their own Python does with values.

The containers are the modules around the cut points; the submodules they call are the units.  A *source* is a value
that a part can receive: an input of the model, or a tensor that a unit returns.  What the containers' Python computes
from sources (masks, sums, reshapes) can be computed again wherever those sources are known.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from cutlayer.cutting.inputs import Inputs
from cutlayer.cutting.program import UnfitError, mode, undisturbed
from cutlayer.cutting.units import short
from cutlayer.errors import CutError

RANDOM = ("rand", "bernoulli", "normal", "uniform", "exponential", "multinomial", "poisson", "dropout")
READS = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "equal", "allclose", "is_nonzero", "numpy"}


@dataclass(frozen=True)
class Source:
    """An input of the model (``unit`` is None), or one tensor of what a unit returned in one of its calls."""

    unit: str | None
    call: int
    leaf: int


@dataclass
class Record:
    """What one run showed.

    Attributes:
        calls: every call of a unit in order, as (unit, how often it was called before).
        outputs: structure and leaves (tensors as (shape, dtype, requires_grad)) of what each call returned.
        birth: the stage (number of cuts passed) in which each source came to be.
        shapes: the shape of every source.
        needs: the sources that each stage needs from stages before it, directly or for computing again.
        states: stages in which each direct parameter or buffer of a container is used, by id.
        units: the stages in which each unit is called.
        busy: stages in which anything is computed.
        cuts: the unit after whose last call each cut is.
        carried: names of direct parameters whose value, used before a cut, enters something used after it.
    """

    calls: list[tuple[str, int]] = field(default_factory=list)
    outputs: dict[tuple[str, int], tuple[pytree.TreeSpec, list[Any]]] = field(default_factory=dict)
    birth: dict[Source, int] = field(default_factory=dict)
    shapes: dict[Source, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[Source, torch.dtype] = field(default_factory=dict)
    differentiable: dict[Source, bool] = field(default_factory=dict)
    needs: dict[int, set[Source]] = field(default_factory=dict)
    states: dict[int, set[int]] = field(default_factory=dict)
    units: dict[str, set[int]] = field(default_factory=dict)
    carried: set[str] = field(default_factory=set)
    busy: set[int] = field(default_factory=set)
    cuts: tuple[str, ...] = ()


class _Watch(TorchFunctionMode):
    """Follows the tensors that the containers' own Python handles, from sources to uses."""

    def __init__(
        self, model: nn.Module, containers: frozenset[str], cuts: Sequence[str], last: Mapping[str, int]
    ) -> None:
        super().__init__()
        self.names = {module: name for name, module in model.named_modules()}
        self.inside = {model.get_submodule(name) for name in containers}
        self.cuts = list(cuts)
        self.last = last
        self.stage = 0
        self.stack: list[nn.Module] = []
        self.counts: Counter[str] = Counter()
        self.record = Record()
        self.origin: dict[int, set[Source]] = {}
        self.read: set[Source] = set()
        self.drawn: set[int] = set()
        self.kept: list[Any] = []
        self.direct: dict[int, str] = {}
        self.parents: dict[int, set[int]] = {}
        for module in self.inside:
            for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
                if tensor is not None:
                    self.direct[id(tensor)] = f"{self.names[module]}.{name}".lstrip(".")

    def source(self, tensor: Tensor, source: Source) -> None:
        """Take note that ``tensor`` is a source, unless it is one already."""
        self.kept.append(tensor)
        if id(tensor) not in self.origin:
            self.origin[id(tensor)] = {source}
        self.record.birth[source] = self.stage
        self.record.shapes[source] = tuple(tensor.shape)
        self.record.dtypes[source] = tensor.dtype
        self.record.differentiable[source] = tensor.requires_grad

    def use(self, tensor: Tensor) -> None:
        """Take note that the current stage uses ``tensor``."""
        needs = self.record.needs.setdefault(self.stage, set())
        needs.update(s for s in self.origin.get(id(tensor), ()) if self.record.birth[s] < self.stage)
        for direct in {id(tensor)} & self.direct.keys():
            self.record.states.setdefault(direct, set()).add(self.stage)
        for direct in self.parents.get(id(tensor), ()):
            if min(self.record.states[direct]) < self.stage:
                self.record.carried.add(self.direct[direct])

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.stack:
            return result
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
        name = getattr(func, "__name__", "")
        if not made and name not in READS and not name.endswith("_"):
            return result
        origins = {source for tensor in given for source in self.origin.get(id(tensor), ())}
        parents = {id(t) for t in given if id(t) in self.direct}
        parents.update(parent for t in given for parent in self.parents.get(id(t), ()))
        for tensor in given:
            self.use(tensor)
        random_numbers = name.startswith(RANDOM) or any(id(tensor) in self.drawn for tensor in given)
        if name in READS:
            self.read.update(origins)
            if random_numbers:
                raise UnfitError("its containers decide by random numbers which submodules to call")
        elif random_numbers:
            self.drawn.update(id(tensor) for tensor in made)
        if made:
            self.record.busy.add(self.stage)
        for tensor in made:
            self.kept.append(tensor)
            if id(tensor) not in self.direct:
                self.origin[id(tensor)] = self.origin.get(id(tensor), set()) | origins
                self.parents[id(tensor)] = self.parents.get(id(tensor), set()) | parents
        return result

    def enter(self, module: nn.Module, args: Any, kwargs: Any = None) -> None:
        """A module is called."""
        if module in self.inside:
            return
        if not self.stack and module in self.names:
            name = self.names[module]
            self.record.calls.append((name, self.counts[name]))
            self.record.busy.add(self.stage)
            self.record.units.setdefault(name, set()).add(self.stage)
            for leaf in pytree.tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor):
                    self.use(leaf)
        self.stack.append(module)

    def leave(self, module: nn.Module, _: Any, output: Any) -> Any:
        """A module returns; a tensor that it passes through becomes an alias, so that it can be told apart."""
        if module in self.inside:
            return output
        if len(self.stack) > 1 or module not in self.names:
            self.stack.pop()
            return output
        name = self.names[module]
        count = self.counts[name]
        leaves, spec = pytree.tree_flatten(output)
        leaves = [torch.ops.aten.alias(v) if isinstance(v, Tensor) and id(v) in self.origin else v for v in leaves]
        self.stack.pop()
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                self.source(leaf, Source(name, count, i))
        shown = [None if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves]
        self.record.outputs[name, count] = (spec, shown)
        self.counts[name] += 1
        if name in self.cuts and count == self.last.get(name, -1):
            self.stage += 1
        return pytree.tree_unflatten(leaves, spec)

    def finish(self, output: Any) -> Record:
        """The model returned: every stage needs what decided the way through the containers' Python."""
        for leaf in pytree.tree_leaves(output):
            if isinstance(leaf, Tensor):
                self.use(leaf)
        for stage in range(1, self.stage + 1):
            self.record.needs.setdefault(stage, set()).update(
                source for source in self.read if self.record.birth[source] < stage
            )
        return self.record


def _run(model: nn.Module, watch: _Watch, inputs: Inputs, leaves: Sequence[Tensor], training: bool) -> Record:
    hooks: list[Any] = []
    for module in model.modules():
        hooks.append(module.register_forward_pre_hook(watch.enter, with_kwargs=True))
        hooks.append(module.register_forward_hook(watch.leave))
    fresh = [t.detach().clone() for t in leaves]
    try:
        with undisturbed(model), mode(model, training):
            for i, tensor in enumerate(fresh):
                watch.source(tensor, Source(None, 0, i))
            args, named = inputs.call(fresh)
            state = random.getstate()
            with watch:
                output = model(*args, **named)
            if random.getstate() != state:
                raise UnfitError("its forward draws from Python's random module")
            return watch.finish(output)
    finally:
        for hook in hooks:
            hook.remove()


def record(
    model: nn.Module,
    containers: frozenset[str],
    cuts: Sequence[str],
    inputs: Inputs,
    leaves: Sequence[Tensor],
    training: bool,
) -> Record:
    """Run the model on one batch and return what was seen; raise CutError if a cut is never passed."""
    try:
        first = _run(model, _Watch(model, containers, (), {}), inputs, leaves, training)
        last = dict(first.calls)
        ends = []
        for cut in cuts:
            calls = [i for i, (unit, _) in enumerate(first.calls) if f"{unit}.".startswith(f"{cut}.")]
            if not calls:
                raise CutError(
                    f"'{cut}' is not called when the model runs on the example, so nothing can be cut after it; "
                    f"name one that is"
                )
            ends.append(calls[-1])
        if ends != sorted(ends):
            raise CutError(f"'{cuts[1]}' does not run after '{cuts[0]}'; name the cuts in the order they run")
        at = tuple(first.calls[end][0] for end in ends)
        seen = _run(model, _Watch(model, containers, at, last), inputs, leaves, training)
        seen.cuts = at
        if len(cuts) not in seen.busy:
            raise CutError(
                f"nothing runs after '{cuts[-1]}', so there is nothing to put on the other side; cut earlier"
            )
        return seen
    except (CutError, UnfitError):
        raise
    except Exception as error:
        raise UnfitError(f"the uncut model itself fails on the example ({short(error)})") from error
