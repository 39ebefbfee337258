"""The mathematics of one split step: pure functions on tensors and modules.

A *part* is a piece of a cut model (encoder, backbone, head): any ``nn.Module`` that is called with the values that
cross the cut.

Contract of a remote part.  ``forward`` and ``backward`` may be separated by anything: other batches, other processes, a
restart.  ``backward`` therefore runs the forward again, and its gradients are bit-equal to those of a retained graph,
because everything that enters the program is the same:

- the weights and buffers of the forward (the caller names their version and passes the buffers if they have moved),
- the inputs (recorded after the codec, in the form of :func:`cutlayer.wire.dense`),
- the random stream (``seed``, set at the start of the part, in both passes),
- the mode and the autocast state (training mode; ``autocast`` is recorded by the caller).

Both passes build the graph, also where it is thrown away, since some kernels differ between the two grad modes.
Buffers (BatchNorm statistics, the vectors of spectral norm) move once: in ``forward``; ``backward`` puts them back.

Limits: a module with hidden state outside parameters and buffers, or with randomness outside torch's default
generators, cannot be recomputed; atomics on CUDA are only deterministic under ``torch.use_deterministic_algorithms``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from cutlayer import streams
from cutlayer.errors import TrainingError

Values = tuple[Any, ...]
"""What crosses a cut: tensors, and Python numbers such as a batch size."""

Loss = Callable[[Any, Tensor], Tensor]
"""``loss(output, targets)``: the mean over the batch, a scalar tensor."""


@dataclass(frozen=True, slots=True)
class Pass:
    """A forward with its graph: ``inputs`` are leaves (detached), ``outputs`` hang on them."""

    inputs: Values
    outputs: Values


def as_values(value: Any) -> Values:
    """Return what a part returned, or is to be called with, as a flat tuple."""
    return value if type(value) is tuple else (value,)


def logits(output: Any) -> Tensor:
    """Return the predictions in a model's output: the tensor itself, its ``logits``, or its first item."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        return logits(output["logits"] if "logits" in output else next(iter(output.values())))
    if hasattr(output, "logits"):
        return logits(output.logits)
    return logits(output[0])


def cross_entropy(output: Any, targets: Tensor) -> Tensor:
    """Mean cross-entropy of class scores ``(b, ..., classes)`` against int64 ``targets`` ``(b, ...)``."""
    scores = logits(output)
    if scores.ndim > 2:
        scores, targets = scores.flatten(0, -2), targets.flatten()
    return nn.functional.cross_entropy(scores, targets)


def leaf(value: Any, differentiable: bool = True) -> Any:
    """Return a detached tensor that starts a graph; integer tensors and Python numbers come back as they are."""
    if not isinstance(value, Tensor):
        return value
    value = value.detach()
    return value.requires_grad_() if differentiable and value.is_floating_point() else value


def run(
    part: nn.Module,
    inputs: Iterable[Any],
    seed: int,
    *,
    autocast: torch.dtype | None = None,
    differentiable: bool = True,
) -> Pass:
    """Run ``part`` on fresh leaves at the start of stream ``seed`` and keep the graph.

    ``differentiable=False`` leaves the inputs out of the graph, as for raw data.
    """
    leaves = tuple(leaf(value, differentiable) for value in inputs)
    changes = _changes_inputs.get(part)
    if changes is None:
        return Pass(leaves, _first_call(part, leaves, seed, autocast))
    streams.start(seed)
    with autocast_of(autocast, leaves):
        called = (v.clone() if isinstance(v, Tensor) else v for v in leaves) if changes else leaves
        return Pass(leaves, call(part, called))


def call(part: nn.Module, inputs: Iterable[Any]) -> Values:
    """Call ``part`` and return its outputs.  Raises TrainingError where BatchNorm meets a single sample."""
    try:
        return as_values(part(*inputs))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise TrainingError(
            "BatchNorm needs at least two samples to train on, and a batch of one came; give a batch_size and a "
            "partition.min_samples of 2 or more, or take a model without BatchNorm"
        ) from None


_changes_inputs: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Parts that were run before: do they change what they are called with in place, as ReLU(inplace=True) would?"""


def _first_call(part: nn.Module, leaves: Values, seed: int, autocast: torch.dtype | None) -> Values:
    """Run a part that may change its inputs in place, which autograd forbids on leaves: then it gets copies."""
    found = snapshot(part)
    versions = [v._version for v in leaves if isinstance(v, Tensor)]
    copies = tuple(v.clone() if isinstance(v, Tensor) else v for v in leaves)
    for changes in (False, True):
        streams.start(seed)
        try:
            with autocast_of(autocast, leaves):
                outputs = call(part, copies if changes else leaves)
        except RuntimeError as error:
            if changes or "leaf Variable" not in str(error):
                raise
        else:
            if changes or versions == [v._version for v in leaves if isinstance(v, Tensor)]:
                _changes_inputs[part] = changes
                return outputs
        restore(part, found)
        for value, copy in zip(leaves, copies, strict=True):
            if isinstance(value, Tensor) and value._version:
                value.data.copy_(copy)
    raise AssertionError("the second call returns or raises")


def run_apart(
    part: nn.Module, inputs: Iterable[Any], seed: int, *, autocast: torch.dtype | None = None
) -> tuple[Pass, list[Tensor]]:
    """As :func:`run`, on copies of the part's buffers: returns also the copies, as the forward left them.

    The part's own buffers stay as they are, and nothing that the graph has saved is written to afterwards, so that the
    graph may wait for its backward while other forwards come by.
    """
    places = [(m._buffers, name, b) for m in part.modules() for name, b in m._buffers.items() if b is not None]
    copies = {id(buffer): buffer.detach().clone() for _, _, buffer in places}
    for home, name, buffer in places:
        home[name] = copies[id(buffer)]
    try:
        done = run(part, inputs, seed, autocast=autocast)
        return done, list(part.buffers())
    finally:
        for home, name, buffer in places:
            home[name] = buffer


def forward(part: nn.Module, inputs: Iterable[Any], seed: int, *, autocast: torch.dtype | None = None) -> Values:
    """Run ``part`` once and keep nothing: returns the detached outputs; buffers move."""
    return detached(run(part, inputs, seed, autocast=autocast).outputs)


def backward(
    part: nn.Module,
    inputs: Iterable[Any],
    seed: int,
    output_gradients: Sequence[Tensor | None],
    *,
    autocast: torch.dtype | None = None,
    buffers: Sequence[Tensor] | None = None,
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Recompute the forward and pull ``output_gradients`` (δ = ∂ℓ/∂z, one an output) back through it.

    Returns the gradients of ``trainable(part)`` and of the inputs (g_h = ∂ℓ/∂h), None where nothing flows.
    ``buffers`` are those that the forward started from, if they moved since.  The part's buffers are left as found.
    """
    found = snapshot(part)
    if buffers is not None:
        restore(part, buffers)
    try:
        return pull(part, run(part, inputs, seed, autocast=autocast), output_gradients)
    finally:
        restore(part, found)


def pull(
    part: nn.Module,
    done: Pass,
    output_gradients: Sequence[Tensor | None],
    weights: Sequence[Tensor] | None = None,
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Pull ``output_gradients`` back through a retained graph; returns as :func:`backward`.

    Where there are fewer gradients than outputs, nothing flows into the last outputs.  ``weights`` are
    ``trainable(part)``, for callers that have them: finding them takes longer than some layers.
    """
    pairs = [
        (z, δ)
        for z, δ in zip(done.outputs, output_gradients, strict=False)
        if δ is not None and isinstance(z, Tensor) and z.requires_grad
    ]
    return _gradients(part, done.inputs, [z for z, _ in pairs], [δ for _, δ in pairs], weights)


def pull_loss(
    part: nn.Module, inputs: Values, loss: Tensor, weights: Sequence[Tensor] | None = None
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Pull a scalar ``loss`` back to the weights and to the ``inputs`` of the :class:`Pass` that it came from."""
    return _gradients(part, inputs, [loss] if loss.requires_grad else [], None, weights)


def train(
    part: nn.Module,
    inputs: Iterable[Any],
    targets: Tensor,
    loss: Loss,
    seed: int,
    *,
    autocast: torch.dtype | None = None,
    weights: Sequence[Tensor] | None = None,
) -> tuple[Tensor, list[Tensor | None], list[Tensor | None]]:
    """One request where labels are here: returns the detached mean loss, and gradients as :func:`backward`."""
    done = run(part, inputs, seed, autocast=autocast)
    with autocast_of(autocast, done.inputs):
        value = loss(done.outputs[0] if len(done.outputs) == 1 else done.outputs, targets)
    gradients, input_gradients = pull_loss(part, done.inputs, value, weights)
    return value.detach(), gradients, input_gradients


def _gradients(
    part: nn.Module,
    inputs: Values,
    outputs: list[Tensor],
    output_gradients: list[Tensor] | None,
    weights: Sequence[Tensor] | None,
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    if weights is None:
        weights = trainable(part)
    starts = [v for v in inputs if isinstance(v, Tensor) and v.requires_grad]
    if not outputs or not (weights or starts):
        return [None] * len(weights), [None] * len(inputs)
    found = torch.autograd.grad(outputs, (*weights, *starts), output_gradients, allow_unused=True)
    of_inputs = iter(found[len(weights) :])
    return list(found[: len(weights)]), [
        next(of_inputs) if isinstance(v, Tensor) and v.requires_grad else None for v in inputs
    ]


def trainable(part: nn.Module) -> list[Tensor]:
    """Return the parameters that take gradients, in ``named_parameters`` order."""
    return [p for p in part.parameters() if p.requires_grad]


def detached(values: Values) -> Values:
    """Return ``values`` without their graph."""
    return tuple(v.detach() if isinstance(v, Tensor) else v for v in values)


def snapshot(part: nn.Module) -> list[Tensor]:
    """Return copies of the part's buffers, persistent or not, in ``buffers()`` order."""
    return [b.detach().clone() for b in part.buffers()]


def restore(part: nn.Module, buffers: Sequence[Tensor]) -> None:
    """Put a :func:`snapshot` back, in place."""
    with torch.no_grad():
        for here, there in zip(part.buffers(), buffers, strict=True):
            here.copy_(there)


def autocast_of(dtype: torch.dtype | None, values: Iterable[Any]) -> AbstractContextManager[Any]:
    """Return the autocast context for ``dtype`` on the device of ``values``; None is full precision."""
    if dtype is None:
        return nullcontext()
    device = next((v.device.type for v in values if isinstance(v, Tensor)), "cpu")
    return torch.autocast(device, dtype)
