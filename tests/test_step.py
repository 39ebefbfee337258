"""The step: recomputed gradients equal retained ones equal ordinary autograd's, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm

from cutlayer import step, streams


class Several(nn.Module):
    """Takes three values (one a mask, one a number), returns three (one not differentiable)."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(5, 4)
        self.right = nn.Linear(5, 4)
        self.drop = nn.Dropout(0.4)

    def forward(self, h: Tensor, skip: Tensor, mask: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        z = self.drop(self.left(h)) * mask[:, None] + skip[:, :4]
        return z, self.right(skip) / size, mask


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 6, num_layers=2, dropout=0.3, batch_first=True)
        self.norm = nn.LayerNorm(6)

    def forward(self, h: Tensor) -> Tensor:
        return self.norm(self.gru(h)[0])


class Transposed(nn.Module):
    """Works on values whose memory is not row by row, and returns such values."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 5)

    def forward(self, h: Tensor) -> Tensor:
        return torch.softmax(self.fc(h), -1).transpose(1, 2)


class Drifting(nn.Module):
    """A buffer of its own that enters the output, moves in place, and is not saved."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 4)
        self.register_buffer("scale", torch.ones(4), persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        z = self.fc(h) * self.scale.clone()
        self.scale.mul_(0.9).add_(z.detach().mean(0), alpha=0.1)
        return z


class Frozen(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4))
        self[0].weight.requires_grad_(False)


@dataclass(frozen=True)
class Case:
    part: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Any, ...]]


def _rows(*shape: int) -> Callable[[int], tuple[Any, ...]]:
    return lambda b: (torch.randn(b, *shape),)


def _channels_last(b: int) -> tuple[Any, ...]:
    return (torch.randn(b, 3, 6, 6).to(memory_format=torch.channels_last),)


CASES = {
    "dropout": Case(lambda: nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 4)), _rows(5)),
    "batch norm": Case(lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU()), _rows(5)),
    "cumulative batch norm": Case(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.Dropout2d(0.3)), _rows(3, 6, 6)
    ),
    "channels last": Case(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)), _channels_last
    ),
    "transposed": Case(Transposed, lambda b: (torch.randn(b, 3, 4).transpose(1, 2),)),
    "spectral norm, hook": Case(lambda: nn.Sequential(spectral_norm(nn.Linear(5, 6)), nn.Tanh()), _rows(5)),
    "spectral norm, parametrization": Case(
        lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(5, 6)), nn.Tanh()), _rows(5)
    ),
    "weight norm": Case(lambda: parametrizations.weight_norm(nn.Linear(5, 4)), _rows(5)),
    "in-place first layer": Case(lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 4)), _rows(5)),
    "in-place dropout first": Case(lambda: nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Linear(5, 4)), _rows(5)),
    "several values": Case(Several, lambda b: (torch.randn(b, 5), torch.randn(b, 5), (torch.rand(b) > 0.5).long(), b)),
    "GRU": Case(Recurrent, _rows(4, 5)),
    "attention": Case(lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True), _rows(3, 8)),
    "group norm": Case(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.GELU()), _rows(3, 6, 6)),
    "moving buffer": Case(Drifting, _rows(5)),
    "frozen parameter": Case(Frozen, _rows(5)),
    "no parameters": Case(lambda: nn.Sequential(nn.Dropout(0.5), nn.Tanh()), _rows(5)),
    "no gradient at all": Case(lambda: nn.Embedding(7, 4).requires_grad_(False), lambda b: (torch.randint(7, (b, 3)),)),
}
examples = settings(max_examples=8, deadline=None)
draws = given(seed=st.integers(0, 2**31), batch=st.integers(2, 9), autocast=st.sampled_from([None, torch.bfloat16]))


def _made(case: Case, seed: int, batch: int) -> tuple[nn.Module, tuple[Any, ...]]:
    with streams.preserved():
        torch.manual_seed(seed)
        part = case.part().train()
        for _ in range(seed % 3):  # buffers that are not at their start
            part(*case.inputs(batch))
        return part, case.inputs(batch)


def _loss(outputs: Any, _: Tensor) -> Tensor:
    terms = [v.float().square().mean() for v in step.as_values(outputs) if v.is_floating_point()]
    return torch.stack(terms).sum()


def _ordinary(
    part: nn.Module, inputs: tuple[Any, ...], seed: int, autocast: torch.dtype | None
) -> tuple[Tensor, list[Tensor | None], list[Tensor | None]]:
    """Plain autograd, in place of everything that is tested here."""
    leaves = tuple(
        v.detach().clone().requires_grad_(v.is_floating_point()) if isinstance(v, Tensor) else v for v in inputs
    )
    torch.manual_seed(seed)
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        loss = _loss(part(*(v.clone() if isinstance(v, Tensor) else v for v in leaves)), torch.empty(0))
    if loss.requires_grad:
        loss.backward()
    gradients = [p.grad for p in part.parameters() if p.requires_grad]
    for p in part.parameters():
        p.grad = None
    return loss.detach(), gradients, [v.grad if isinstance(v, Tensor) else None for v in leaves]


def _equal(left: list[Tensor | None], right: list[Tensor | None]) -> bool:
    return len(left) == len(right) and all(
        a is b if a is None or b is None else torch.equal(a, b) and a.dtype == b.dtype
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("name", CASES)
@examples
@draws
def test_training_in_one_request_is_ordinary_autograd(
    name: str, seed: int, batch: int, autocast: torch.dtype | None
) -> None:
    part, inputs = _made(CASES[name], seed, batch)
    start = step.snapshot(part)
    expected = _ordinary(part, inputs, seed, autocast)
    moved = step.snapshot(part)
    step.restore(part, start)

    loss, gradients, input_gradients = step.train(part, inputs, torch.empty(0), _loss, seed, autocast=autocast)

    assert torch.equal(loss, expected[0])
    assert _equal(gradients, expected[1])
    assert _equal(input_gradients, expected[2])
    assert _equal(list(part.buffers()), moved)


@pytest.mark.parametrize("name", CASES)
@examples
@draws
def test_recomputing_equals_a_retained_graph(name: str, seed: int, batch: int, autocast: torch.dtype | None) -> None:
    part, inputs = _made(CASES[name], seed, batch)
    before = step.snapshot(part)
    kept = step.run(part, inputs, seed, autocast=autocast)
    moved = step.snapshot(part)
    δ = [torch.randn_like(v) if isinstance(v, Tensor) and v.is_floating_point() else None for v in kept.outputs]
    retained = step.pull(part, kept, δ)

    step.restore(part, before)
    outputs = step.forward(part, inputs, seed, autocast=autocast)
    torch.rand(7)  # other work draws in between
    recomputed = step.backward(part, inputs, seed, δ, autocast=autocast, buffers=before)

    assert all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(outputs, kept.outputs, strict=True)
    )
    assert not any(v.requires_grad for v in outputs if isinstance(v, Tensor))
    assert _equal(recomputed[0], retained[0])
    assert _equal(recomputed[1], retained[1])
    assert _equal(list(part.buffers()), moved), "the statistics moved once, in the forward"


@pytest.mark.parametrize("name", CASES)
@examples
@draws
def test_a_graph_kept_apart_outlives_other_forwards(
    name: str, seed: int, batch: int, autocast: torch.dtype | None
) -> None:
    part, inputs = _made(CASES[name], seed, batch)
    before = step.snapshot(part)
    alone = step.run(part, inputs, seed, autocast=autocast)
    left = step.snapshot(part)
    δ = [torch.randn_like(v) if isinstance(v, Tensor) and v.is_floating_point() else None for v in alone.outputs]
    expected = step.pull(part, alone, δ)
    step.restore(part, before)

    done, after = step.run_apart(part, inputs, seed, autocast=autocast)
    assert _equal(list(part.buffers()), before), "the part's own buffers stay"
    step.run_apart(part, inputs, seed + 1, autocast=autocast)
    step.forward(part, inputs, seed + 2, autocast=autocast)

    assert _equal(after, left)
    found = step.pull(part, done, δ)
    assert _equal(found[0], expected[0])
    assert _equal(found[1], expected[1])


def test_inputs_are_never_written_to() -> None:
    h = torch.randn(4, 5)
    kept = h.clone()
    part = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 3))
    for differentiable in (True, False, True):
        step.run(part, (h,), 1, differentiable=differentiable)
        assert torch.equal(h, kept)


def test_a_part_that_fails_for_its_own_reasons_says_so() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        step.forward(nn.Linear(3, 2), (torch.randn(4, 5),), 0)


def test_missing_output_gradients_mean_that_nothing_flows() -> None:
    part = Several()
    inputs = CASES["several values"].inputs(3)
    done = step.run(part, inputs, 5)
    gradients, of_inputs = step.pull(part, done, [torch.ones(3, 4)])
    assert gradients[2:] == [None, None], "the right branch saw no gradient"
    assert of_inputs[2:] == [None, None], "neither the mask nor the number has one"
    assert all(g is not None for g in gradients[:2])


def test_gradients_are_of_trainable_parameters_only() -> None:
    part = Frozen()
    _, gradients, _ = step.train(part, (torch.randn(3, 5),), torch.tensor([0, 1, 2]), step.cross_entropy, 0)
    assert [g.shape for g in gradients if g is not None] == [w.shape for w in step.trainable(part)]
    assert len(gradients) == 3


def test_autocast_changes_the_numbers_and_only_inside() -> None:
    part = nn.Linear(5, 4)
    h = (torch.randn(3, 5),)
    assert step.forward(part, h, 0, autocast=torch.bfloat16)[0].dtype == torch.bfloat16
    assert step.forward(part, h, 0)[0].dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")


class _Output(dict[str, Tensor]):
    @property
    def logits(self) -> Tensor:
        return self["logits"]


@pytest.mark.parametrize(
    "output",
    [
        torch.eye(3),
        (torch.eye(3), torch.zeros(9)),
        [torch.eye(3)],
        {"hidden": torch.zeros(2), "logits": torch.eye(3)},
        {"scores": torch.eye(3), "hidden": torch.zeros(2)},
        _Output(hidden=torch.zeros(2), logits=torch.eye(3)),
    ],
)
def test_logits_are_found_in_any_output(output: Any) -> None:
    assert torch.equal(step.logits(output), torch.eye(3))
    expected = nn.functional.cross_entropy(torch.eye(3), torch.tensor([0, 2, 1]))
    assert torch.equal(step.cross_entropy(output, torch.tensor([0, 2, 1])), expected)


def test_cross_entropy_of_sequences_is_the_mean_over_positions() -> None:
    scores, targets = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    expected = nn.functional.cross_entropy(scores.reshape(6, 5), targets.reshape(6))
    assert torch.equal(step.cross_entropy(scores, targets), expected)


def test_snapshots_are_copies() -> None:
    part = nn.BatchNorm1d(3)
    found = step.snapshot(part)
    part(torch.randn(4, 3))
    assert torch.equal(found[0], torch.zeros(3))
    step.restore(part, found)
    assert torch.equal(part.running_mean, torch.zeros(3))
    assert int(part.num_batches_tracked) == 0
