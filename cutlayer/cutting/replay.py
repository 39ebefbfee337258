"""A part that runs the model's own containers, with only its own submodules in them.

The containers' Python runs as it is.  A submodule of an earlier part is a stand-in: it returns the tensors that were
received, and for all others an empty tensor of the right shape, which by the recording nothing that matters is
computed from (and verification proves it, by filling them differently).  Reaching its cut, the part stops and returns
what crosses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from cutlayer.cutting.inputs import Inputs
from cutlayer.cutting.part import Part
from cutlayer.cutting.record import Source
from cutlayer.errors import CutError


class _Stop(BaseException):
    """The part has reached its cut (no Exception, so that the containers' Python does not catch it)."""


@dataclass(frozen=True)
class Size:
    """A dimension: a fixed ``value``, or dimension ``dim`` of wire ``wire``."""

    value: int
    wire: int = -1
    dim: int = -1


@dataclass(frozen=True)
class Blank:
    """A tensor that only its shape is needed of."""

    shape: tuple[Size, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Answer:
    """What a stand-in returns for one call: its structure; received tensors, blanks, or fixed values as leaves."""

    spec: pytree.TreeSpec
    leaves: tuple[Any, ...]


@dataclass(frozen=True)
class Plan:
    """How one part runs in one mode.

    Attributes:
        received: the sources that arrive, in order.
        sent: the sources that cross the part's cut, in order; None for the last part.
        start: the call after which the part's own work begins; None for the encoder.
        stop: the call after which it ends; None for the last part.
        inputs: for each input of the model, the wire it arrives on or a blank; unused in the encoder.
        answers: for each call of a stand-in, what it returns.
        specs: structure of what the calls return whose tensors are sent.
    """

    received: tuple[Source, ...]
    sent: tuple[Source, ...] | None
    start: tuple[str, int] | None
    stop: tuple[str, int] | None
    inputs: tuple[Any, ...]
    answers: Mapping[tuple[str, int], Answer]
    specs: Mapping[tuple[str, int], pytree.TreeSpec]

    def __deepcopy__(self, memo: dict[int, Any]) -> Plan:
        return self


class _Run:
    """One call of a part."""

    def __init__(self, plan: Plan, arrived: Sequence[Any], leaves: Sequence[Any], fill: float) -> None:
        self.plan, self.arrived, self.fill = plan, arrived, fill
        self.counts: Counter[str] = Counter()
        self.known: dict[Source, Any] = dict(zip(plan.received, arrived, strict=True))
        self.known.update({Source(None, 0, i): leaf for i, leaf in enumerate(leaves)})
        self.generators: Any = None

    def blank(self, leaf: Any) -> Any:
        if isinstance(leaf, Source):
            return self.known[leaf]
        if isinstance(leaf, Blank):
            shape = [size.value if size.wire < 0 else self.arrived[size.wire].size(size.dim) for size in leaf.shape]
            device = self.arrived[0].device
            fill = self.fill if leaf.dtype.is_floating_point else int(self.fill != 0)
            return torch.full((), fill, dtype=leaf.dtype, device=device).expand(shape)
        return leaf[0]

    def answer(self, name: str) -> Any:
        call = name, self.counts[name]
        self.counts[name] += 1
        if call not in self.plan.answers:
            raise CutError(
                f"'{name}' is called in a part that does not hold it, unlike on the example; split again "
                f"with an example like this batch"
            )
        answer = self.plan.answers[call]
        value = pytree.tree_unflatten([self.blank(leaf) for leaf in answer.leaves], answer.spec)
        if call == self.plan.start:
            _draw_from(self.generators)
        return value

    def returned(self, name: str, output: Any) -> None:
        call = name, self.counts[name]
        self.counts[name] += 1
        if call in self.plan.specs:
            leaves, spec = pytree.tree_flatten(output)
            if spec != self.plan.specs[call]:
                raise CutError(
                    f"'{name}' returns {spec}, but on the example it returned {self.plan.specs[call]}; "
                    f"split again with an example like this batch"
                )
            self.known.update({Source(*call, i): leaf for i, leaf in enumerate(leaves)})
        if call == self.plan.stop:
            raise _Stop


_RUN: ContextVar[_Run] = ContextVar("run")


class StandIn:
    """The forward of a submodule that another part holds."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Return what was received for this call."""
        return _RUN.get().answer(self.name)


class Tap:
    """A forward hook that shows the running part what a submodule returned."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Keep what crosses; end the run at the cut."""
        _RUN.get().returned(self.name, output)


class TappedForward:
    """The forward of a submodule that shows the running part what it returns."""

    def __init__(self, module: nn.Module, name: str) -> None:
        self.module, self.name = module, name
        self.own = module.__dict__.get("forward")

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Run the submodule; keep what crosses; end the run at the cut."""
        forward = self.own or partial(type(self.module).forward, self.module)
        output = forward(*args, **named)
        _RUN.get().returned(self.name, output)
        return output


def _generators(device: torch.device) -> Any:
    return torch.default_generator.get_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _draw_from(states: Any) -> None:
    torch.default_generator.set_state(states[0])
    if states[1] is not None:
        torch.cuda.set_rng_state(states[1])


class ReplayPart(Part):
    """A part that runs the model's own containers with stand-ins for what other parts hold."""

    def __init__(self, root: nn.Module, plans: Mapping[bool, Plan], inputs: Inputs, first: bool) -> None:
        super().__init__({}, inputs if first else None)
        self._plans = dict(plans)
        self._call = inputs
        self.__dict__["_root"] = root
        for table in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            self.__dict__[table] = root.__dict__[table]
        self.training = root.training

    def forward(self, *args: Any, **named: Any) -> Any:
        """Run this part on one batch."""
        plan = self._plans[self.training]
        root = self.__dict__["_root"]
        root.training = self.training
        if self._inputs is not None:
            leaves = self._inputs.leaves(args, named)
            run = _Run(plan, (), leaves, self._fill)
        else:
            args = tuple(a.clone() if i in self._clones else a for i, a in enumerate(args))
            run = _Run(plan, args, (), self._fill)
            run.generators = _generators(args[0].device)
            leaves = tuple(run.blank(leaf) for leaf in plan.inputs)
        token = _RUN.set(run)
        try:
            given, keywords = self._call.call(leaves)
            output = root(*given, **keywords)
        except _Stop:
            sent = tuple(run.known[source] for source in plan.sent or ())
            return sent[0] if len(sent) == 1 else sent
        finally:
            _RUN.reset(token)
        if plan.stop is not None:
            raise CutError(
                f"'{plan.stop[0]}' is not called for this batch, though it was on the example; "
                f"split again with an example like this batch"
            )
        return output
