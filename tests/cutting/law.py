"""The law of cutting, stated without any of the package's own verification code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from cutlayer.cutting import SplitModel, as_tuple


def call(model: Any, batch: Any) -> Any:
    """Call a model or a split with a batch as an example gives it."""
    if isinstance(batch, dict):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple) else model(batch)


def tensors(value: Any) -> list[Tensor]:
    """Return all tensors in a structure."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _detached(value: Any) -> tuple[Any, ...]:
    return tuple(
        v.detach().requires_grad_(v.is_floating_point()) if isinstance(v, Tensor) else v for v in as_tuple(value)
    )


def _step_uncut(model: nn.Module, batch: Any) -> Any:
    output = call(model, batch)
    torch.stack([t.sum() for t in tensors(output) if t.requires_grad]).sum().backward()
    return output


def _step_split(split: SplitModel, batch: Any) -> Any:
    """One step as client and server do it: activations are detached, gradients at the cut are passed by hand."""
    first, *others = split.parts.values()
    value = call(first, batch)
    sent, arrived = [], []
    for part in others:
        sent.append(as_tuple(value))
        arrived.append(_detached(value))
        value = part(*arrived[-1])
    torch.stack([t.sum() for t in tensors(value) if t.requires_grad]).sum().backward()
    for outgoing, incoming in zip(reversed(sent), reversed(arrived), strict=True):
        pairs = [
            (out, leaf.grad)
            for out, leaf in zip(outgoing, incoming, strict=True)
            if isinstance(leaf, Tensor) and leaf.grad is not None and out.requires_grad
        ]
        torch.autograd.backward([out for out, _ in pairs], [gradient for _, gradient in pairs])
    return value


def _state(model: nn.Module | SplitModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_exact(model: nn.Module, split: SplitModel, batch: Any) -> None:
    """Assert that the split computes on ``batch`` what the model does, bit for bit, in train and eval mode.

    Outputs, gradients of every parameter, and buffers after the step; the parts share the model's parameters, so the
    model is put back in between.
    """
    before = _state(model)
    for training in (True, False):
        results = []
        for subject in (model, split):
            model.load_state_dict(before)
            model.zero_grad(set_to_none=True)
            subject.train(training)
            torch.manual_seed(7)
            copied = pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, batch)
            output = _step_uncut(model, copied) if subject is model else _step_split(split, copied)
            gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
            results.append((output, gradients, _state(model)))
        (theirs, their_gradients, their_state), (ours, our_gradients, our_state) = results
        assert type(ours) is type(theirs)
        assert len(tensors(ours)) == len(tensors(theirs)) > 0
        for mine, its in zip(tensors(ours), tensors(theirs), strict=True):
            torch.testing.assert_close(mine, its, rtol=0, atol=0)
        for name, gradient in their_gradients.items():
            mine = our_gradients[name]
            assert (mine is None) == (gradient is None), name
            assert mine is None or torch.equal(mine, gradient), name
        for name, tensor in their_state.items():
            assert torch.equal(our_state[name], tensor), name
    model.load_state_dict(before)
    model.zero_grad(set_to_none=True)


def assert_joins(model: nn.Module, split: SplitModel) -> None:
    """Assert that the parts' keys are disjoint and together the model's, in its order."""
    keys = [key for part in split.parts.values() for key in part.state_dict()]
    assert len(keys) == len(set(keys))
    assert set(keys) == set(model.state_dict())
    assert list(split.state_dict()) == list(model.state_dict())
    for name, tensor in split.state_dict().items():
        assert tensor.data_ptr() == model.state_dict()[name].data_ptr() or tensor.numel() == 0
