"""Prove a cut on an example: the parts in sequence give what the uncut model gives, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from cutlayer import streams
from cutlayer.cutting.inputs import Inputs, batch_of, doubled, first, shortened
from cutlayer.cutting.part import Part, as_tuple, detached
from cutlayer.cutting.program import UnfitError, mode, undisturbed
from cutlayer.cutting.units import short
from cutlayer.errors import CutError

_SEED = 2024


def _tensors(value: Any) -> list[Any]:
    return list(pytree.tree_leaves(value))


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        same = left.shape == right.shape and left.dtype == right.dtype
        return same and bool(torch.equal(left, right) or torch.equal(torch.nan_to_num(left), torch.nan_to_num(right)))
    return type(left) is type(right) and bool(left == right)


def _differ(left: Any, right: Any, what: str) -> None:
    """Raise UnfitError, saying how far apart the two values are, unless they are equal bit for bit."""
    ours, theirs = _tensors(left), _tensors(right)
    if type(left) is not type(right) or len(ours) != len(theirs):
        raise UnfitError(
            f"{what} is a {type(left).__name__} with {len(ours)} values instead of "
            f"a {type(right).__name__} with {len(theirs)}"
        )
    for mine, its in zip(ours, theirs, strict=True):
        if not _equal(mine, its):
            gap = ""
            if isinstance(mine, Tensor) and isinstance(its, Tensor) and mine.shape == its.shape:
                gap = f" by up to {(mine.double() - its.double()).abs().max().item():.2g}"
            raise UnfitError(f"{what} differs from the uncut model's{gap}")


def _loss(value: Any) -> Tensor | None:
    found = [
        v.float().sum() for v in _tensors(value) if isinstance(v, Tensor) and v.requires_grad and not v.is_complex()
    ]
    return torch.stack(found).sum() if found else None


def _gradients(loss: Tensor | None, tensors: Sequence[Tensor]) -> list[Tensor | None]:
    if loss is None or not tensors:
        return [None] * len(tensors)
    return list(torch.autograd.grad(loss, tensors, allow_unused=True))


def _run_parts(
    parts: Sequence[nn.Module], inputs: Inputs, leaves: Sequence[Tensor], parameters: Sequence[Tensor]
) -> tuple[Any, list[Tensor | None]]:
    """Run the parts as an engine does, each on detached values, and return the output and all gradients."""
    arrived: list[tuple[Any, ...]] = []
    sent: list[tuple[Any, ...]] = []
    args, named = inputs.call(leaves)
    value = parts[0](*args, **named)
    for part in parts[1:]:
        sent.append(as_tuple(value))
        arrived.append(detached(sent[-1]))
        value = part(*arrived[-1])
    gradients: dict[int, Tensor] = {}

    def collect(outputs: list[Tensor], given: list[Tensor | None], leaves_in: tuple[Any, ...]) -> list[Tensor | None]:
        wanted = [*parameters, *(v for v in leaves_in if isinstance(v, Tensor) and v.requires_grad)]
        pairs = [(o, g) for o, g in zip(outputs, given, strict=True) if o.requires_grad and g is not None]
        if not pairs or not wanted:
            return [None] * (len(wanted) - len(parameters))
        found = torch.autograd.grad(
            [o for o, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True, retain_graph=False
        )
        for parameter, gradient in zip(parameters, found, strict=False):
            if gradient is not None:
                known = gradients.get(id(parameter))
                gradients[id(parameter)] = gradient if known is None else known + gradient
        return list(found[len(parameters) :])

    loss = _loss(value)
    if loss is not None:
        back = collect([loss], [torch.ones_like(loss)], arrived[-1])
        for i in range(len(sent) - 1, -1, -1):
            origin = [v for v, a in zip(sent[i], arrived[i], strict=True) if isinstance(a, Tensor) and a.requires_grad]
            back = collect(origin, back, arrived[i - 1] if i else ())
    return value, [gradients.get(id(p)) for p in parameters]


def _buffers(modules: Sequence[nn.Module]) -> dict[str, Tensor]:
    return {name: buffer.detach().clone() for module in modules for name, buffer in module.named_buffers()}


def _changed(parts: Sequence[Part], inputs: Inputs, leaves: Sequence[Tensor]) -> list[set[int]]:
    """Return, for each part after the first, which of the arriving values it changes in place."""
    found = []
    args, named = inputs.call([t.detach().clone() for t in leaves])
    value = parts[0](*args, **named)
    for part in parts[1:]:
        arrived = tuple(v.clone() if isinstance(v, Tensor) else v for v in as_tuple(value))
        before = [v._version if isinstance(v, Tensor) else 0 for v in arrived]
        value = part(*arrived)
        after = [v._version if isinstance(v, Tensor) else 0 for v in arrived]
        found.append({i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new})
    return found


def check(model: nn.Module, parts: Sequence[Part], inputs: Inputs, leaves: Sequence[Tensor]) -> None:
    """Raise UnfitError unless the parts give what ``model`` gives: outputs, gradients and buffers, bit for bit.

    In train mode (from one seed) with gradients, in eval mode without; on the example, on a batch twice as large, and
    in eval mode on a single sample.  Batches that the uncut model itself cannot take are left out.  The model is left
    as it was found: buffers, modes, gradients and random state.
    """
    for training in (True, False):
        with undisturbed(model, *parts), mode(model, training), _Modes(parts, training), torch.no_grad():
            try:
                changed = _changed(parts, inputs, leaves)
            except Exception as error:
                raise UnfitError(f"the parts fail on the example ({short(error)})") from error
        for part, indices in zip(parts[1:], changed, strict=True):
            part._clones = tuple(sorted(indices.union(part._clones)))
    try:
        for training in (True, False):
            for label, batch, fill in _probes(leaves, training):
                for part in parts:
                    part._fill = fill
                with mode(model, training), _Modes(parts, training):
                    _compare(model, parts, inputs, batch, training, label)
    finally:
        for part in parts:
            part._fill = 0.0


def _probes(leaves: Sequence[Tensor], training: bool) -> Iterator[tuple[str, tuple[Tensor, ...], float]]:
    """Yield batches to try, with what to fill empty stand-ins with (see ``replay``): nothing may depend on it."""
    yield "", tuple(leaves), float("nan")
    yield " at another batch size", doubled(leaves), 0.0
    single, shorter = first(leaves), shortened(leaves)
    if single is not None and batch_of(leaves) > 1 and not training:
        yield " at batch size 1", single, float("nan")
    if shorter is not None:
        yield " with shorter sequences", shorter, 0.0


def check_example(model: nn.Module, inputs: Inputs, leaves: Sequence[Tensor]) -> None:
    """Raise CutError if the uncut model cannot run on the example, or returns more than tensors and plain values."""
    with undisturbed(model), mode(model, False), torch.no_grad():
        args, named = inputs.call([t.detach().clone() for t in leaves])
        try:
            output = model(*args, **named)
        except Exception as error:
            raise CutError(
                f"{type(model).__name__} itself fails on the example ({type(error).__name__}: {short(error)}); "
                f"give one batch of its inputs"
            ) from error
    for leaf in _tensors(output):
        if not (leaf is None or isinstance(leaf, Tensor | int | float | str | bool)):
            cache = "; set model.config.use_cache = False before" if "Cache" in type(leaf).__name__ else ""
            raise CutError(
                f"{type(model).__name__} returns a {type(leaf).__name__}, but only tensors and plain values can be "
                f"compared and joined{cache or '; return those'}"
            )


def check_memory(model: nn.Module, inputs: Inputs, leaves: Sequence[Tensor]) -> None:
    """Raise CutError if the model counts its calls in a plain Python attribute: no part could share that."""
    for training in (False, True):
        with undisturbed(model), mode(model, training), torch.no_grad():
            states = []
            for _ in range(3):
                args, named = inputs.call([t.detach().clone() for t in leaves])
                try:
                    model(*args, **named)
                except Exception:
                    return  # not for this check to tell
                states.append(_plain_attributes(model))
        for name, value in states[-1].items():
            if value != states[-2].get(name):
                raise CutError(
                    f"{type(model).__name__} changes its attribute {name!r} at every call, which a part that runs "
                    f"elsewhere, or twice, would get wrong; keep it in a buffer, or out of forward"
                )


def _plain_attributes(model: nn.Module) -> dict[str, Any]:
    return {
        f"{prefix}.{name}" if prefix else name: value
        for prefix, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, int | float | str)
    }


def _compare(
    model: nn.Module,
    parts: Sequence[Part],
    inputs: Inputs,
    batch: tuple[Tensor, ...],
    training: bool,
    label: str,
) -> None:
    what = f" in {'train' if training else 'eval'} mode{label}"
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = {name: p for part in parts for name, p in part.named_parameters(remove_duplicate=False)}
    ours_by_name = [found[name] for name in named]
    results: list[tuple[Any, list[Tensor | None], dict[str, Tensor]]] = []
    for uncut in (True, False):
        fresh = tuple(t.detach().clone() for t in batch)
        with undisturbed(model, *parts), torch.set_grad_enabled(training):
            streams.start(_SEED)
            try:
                if uncut:
                    args, keywords = inputs.call(fresh)
                    output = model(*args, **keywords)
                    gradients = _gradients(_loss(output), list(named.values())) if training else []
                elif training:
                    output, gradients = _run_parts(parts, inputs, fresh, ours_by_name)
                else:
                    output, gradients = _compose(parts, inputs, fresh), []
            except Exception as error:
                if uncut and label:
                    return
                if uncut:
                    raise CutError(
                        f"{type(model).__name__} itself fails on the example{what} ({type(error).__name__}: "
                        f"{short(error)}); give one batch it can be trained on"
                    ) from error
                raise UnfitError(f"the parts fail{what} ({short(error)})") from error
            results.append((output, gradients, _buffers([model] if uncut else parts)))
    (theirs, their_gradients, their_buffers), (ours, our_gradients, our_buffers) = results
    _differ(ours, theirs, f"the output{what}")
    for name, mine, its in zip(named if training else (), our_gradients, their_gradients, strict=True):
        _differ(_or_zero(mine, its), _or_zero(its, mine), f"the gradient of '{name}'{what}")
    for name, buffer in our_buffers.items():
        _differ(buffer, their_buffers.get(name, buffer), f"buffer '{name}' after forward{what}")


def _or_zero(gradient: Tensor | None, other: Tensor | None) -> Tensor | None:
    return torch.zeros_like(other) if gradient is None and other is not None else gradient


def _compose(parts: Sequence[nn.Module], inputs: Inputs, leaves: Sequence[Tensor]) -> Any:
    args, named = inputs.call(leaves)
    value = parts[0](*args, **named)
    for part in parts[1:]:
        value = part(*as_tuple(value))
    return value


class _Modes:
    """Run the body with the parts in one mode; each part's own flag comes back (its modules' flags are the model's)."""

    def __init__(self, parts: Sequence[nn.Module], training: bool) -> None:
        self.parts, self.training = parts, training
        self.flags: Mapping[nn.Module, bool] = {}

    def __enter__(self) -> None:
        self.flags = {module: module.training for part in self.parts for module in part.modules()}
        for part in self.parts:
            part.train(self.training)

    def __exit__(self, *_: object) -> None:
        for module, flag in self.flags.items():
            module.training = flag
