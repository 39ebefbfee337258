"""Every kind of model at several cuts: exact at another batch size, in both modes, with the original names."""

import copy

import pytest
import torch

from cutlayer.cutting import split

from .law import assert_exact, assert_joins
from .zoo import CASES, Case

PAIRS = [pytest.param(case, cut, id=f"{case.name}-{'+'.join(cut)}") for case in CASES for cut in case.cuts]


@pytest.mark.parametrize(("case", "cut"), PAIRS)
def test_the_parts_compute_what_the_uncut_model_computes(case: Case, cut: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    model = case.build()
    parts = split(model, cut, case.batch(4))
    assert case.method in (None, parts.method)
    assert parts.cuts == cut
    assert list(parts.parts) == ["encoder", "backbone", "head"][: len(cut) + 1]
    assert_joins(model, parts)
    for size in (3, 6):
        assert_exact(model, parts, case.batch(size))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_copy_is_independent_and_as_exact(case: Case) -> None:
    torch.manual_seed(0)
    model = case.build()
    parts = split(model, case.cuts[-1], case.batch(4))
    before = copy.deepcopy(model.state_dict())
    twin = parts.copy()
    reference = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    reference.load_state_dict(twin.state_dict())
    shared = split(reference, case.cuts[-1], case.batch(4))
    batch = case.batch(3)
    for training in (True, False):
        outputs = []
        for subject in (shared, twin):
            subject.train(training)
            torch.manual_seed(1)
            encoder = subject.encoder
            value = (
                encoder(**batch)
                if isinstance(batch, dict)
                else encoder(*(batch if isinstance(batch, tuple) else (batch,)))
            )
            outputs.append(value if isinstance(value, tuple) else (value,))
        for one, two in zip(*outputs, strict=True):
            assert torch.equal(one, two) if isinstance(one, torch.Tensor) else one == two


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cutting_leaves_the_model_as_it_was(case: Case) -> None:
    model = case.build()
    model.train()
    next(m for m in model.children()).eval()
    flags = {name: module.training for name, module in model.named_modules()}
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    state = copy.deepcopy(model.state_dict())
    torch.manual_seed(3)
    drawn = torch.get_rng_state()
    example = case.batch(4)
    torch.set_rng_state(drawn)
    split(model, case.cuts[0], example)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert {name: module.training for name, module in model.named_modules()} == flags
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_part_holds_no_tensor_of_another_part(case: Case) -> None:
    parts = split(case.build(), case.cuts[-1], case.batch(4))
    for part in parts.parts.values():
        memo: dict[int, object] = {}
        copied = copy.deepcopy(part, memo)
        held = {id(t): t for t in memo.values() if isinstance(t, torch.Tensor)}
        own = [*copied.parameters(), *copied.buffers()]
        stored = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held.values()}
        mine = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in own}
        assert sum(stored.values()) <= sum(mine.values()) + 8 * len(held)
