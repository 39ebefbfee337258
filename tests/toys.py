"""Small models and data sets for tests: every kind of layer that has ever made split training differ from training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm

import cutlayer as cl
from cutlayer.config import parse
from cutlayer.data import Dataset, Samples, TensorSamples, batches
from cutlayer.engines.local import LocalEngine
from cutlayer.engines.prepare import prepare
from cutlayer.recipes import get
from cutlayer.roles.settings import Settings, part_seed
from cutlayer.store import BatchKey
from cutlayer.streams import derive, start

CLASSES = 4


class Dense(nn.Sequential):
    """Linear layers with BatchNorm and dropout; cut after ``drop1`` and ``drop2``."""

    def __init__(self, width: int = 10) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, width)
        self.norm1 = nn.BatchNorm1d(width)
        self.relu1 = nn.ReLU()
        self.drop1 = nn.Dropout(0.3)
        self.fc2 = nn.Linear(width, width)
        self.norm2 = nn.BatchNorm1d(width)
        self.relu2 = nn.ReLU()
        self.drop2 = nn.Dropout(0.3)
        self.fc3 = nn.Linear(width, width)
        self.drop3 = nn.Dropout(0.2)
        self.fc4 = nn.Linear(width, CLASSES)


class Plain(nn.Sequential):
    """Linear layers and nothing that draws or remembers; cut after ``relu1`` and ``relu2``."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, width)
        self.relu1 = nn.ReLU()
        self.fc2 = nn.Linear(width, width)
        self.relu2 = nn.ReLU()
        self.fc3 = nn.Linear(width, CLASSES)


class Conv(nn.Sequential):
    """Convolutions with BatchNorm, channel dropout and changes in place; cut after ``norm1`` and ``drop2``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2)
        self.norm2 = nn.BatchNorm2d(6, momentum=None)
        self.relu2 = nn.ReLU()
        self.drop2 = nn.Dropout2d(0.25)
        self.flatten = nn.Flatten()
        self.drop3 = nn.Dropout(0.25, inplace=True)
        self.fc = nn.Linear(6 * 9, CLASSES)


class Skip(nn.Module):
    """A residual branch that jumps over both cuts (after ``lower`` and ``middle``), so that two values cross each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.lower = nn.Linear(8, 8)
        self.middle = nn.Sequential(nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 8))
        self.upper = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        stem = torch.tanh(self.stem(x))
        lower = self.lower(stem) + stem
        middle = self.middle(lower)
        return self.upper(torch.relu(middle + lower) + stem)


class Tokens(nn.Module):
    """Embedding, GRU, LayerNorm and attention over token ids; cut after ``norm1`` and ``norm2``."""

    def __init__(self, vocabulary: int = 11, width: int = 8, per_token: bool = False) -> None:
        super().__init__()
        self.per_token = per_token
        self.embed = nn.Embedding(vocabulary, width)
        self.norm1 = nn.LayerNorm(width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.drop = nn.Dropout(0.2)
        self.norm2 = nn.LayerNorm(width)
        self.block = nn.TransformerEncoderLayer(width, 2, 16, dropout=0.1, batch_first=True)
        self.fc = nn.Linear(width, vocabulary if per_token else CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm1(self.embed(ids))
        x = self.norm2(self.drop(self.gru(x)[0]))
        x = self.block(x)
        return self.fc(x if self.per_token else x.mean(1))


class Spectral(nn.Sequential):
    """Spectral norm, the hook and the parametrization, whose power iteration moves buffers in every forward."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = parametrizations.spectral_norm(nn.Linear(6, 8))
        self.relu1 = nn.ReLU()
        self.fc2 = spectral_norm(nn.Linear(8, 8))
        self.relu2 = nn.ReLU()
        self.fc3 = parametrizations.spectral_norm(nn.Linear(8, CLASSES))


def made(kind: Callable[..., nn.Module], seed: int = 0, **options: Any) -> nn.Module:
    """Return a model with weights of ``seed``, leaving torch's generators alone."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return kind(**options)


def rows(n: int = 60, seed: int = 0, shape: tuple[int, ...] = (6,), classes: int = CLASSES) -> TensorSamples:
    """Return ``n`` samples of ``shape`` around one mean a class."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=g)
    means = torch.randn(classes, *shape, generator=torch.Generator().manual_seed(99))
    return TensorSamples(means[y] + 0.5 * torch.randn(n, *shape, generator=g), y)


def tokens(n: int = 40, seed: int = 0, length: int = 5, vocabulary: int = 11) -> TensorSamples:
    """Return ``n`` sequences of token ids; the first id decides the class."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocabulary, (n, length), generator=g)
    return TensorSamples(ids, ids[:, 0] % CLASSES)


def dataset(train: TensorSamples | None = None, test: TensorSamples | None = None, classes: int = CLASSES) -> Dataset:
    """Return a data set of these samples, by default 60 and 30 of :func:`rows`."""
    train = train or rows()
    test = test or rows(30, 1, tuple(train.inputs[0].shape[1:]), classes)
    names = tuple(str(c) for c in range(classes))
    return Dataset("toy", train, test, classes, names, tuple(train.inputs[0].shape[1:]))


def cut(model: nn.Module, at: list[str], samples: TensorSamples) -> cl.SplitModel:
    """Return ``model`` cut at ``at``, verified on the first samples."""
    return cl.split(model, at, samples.take(torch.arange(4))[0])


def engine(algorithm: Any, model: cl.SplitModel, data: Dataset, **keys: Any) -> LocalEngine:
    """Return a local engine at the start of an experiment with these keys."""
    recipe = get(algorithm)
    experiment = parse({"algorithm": recipe.name, **keys})
    prepared = prepare(experiment, dataset=data, model=model, recipe=recipe)
    return LocalEngine(prepared.setup, prepared.settings)


def train_uncut(
    model: nn.Module,
    cuts: Sequence[str],
    clients: Mapping[int, Samples],
    settings: Settings,
    steps: torch.optim.Optimizer,
    rounds: Iterable[int],
    clip_by_part: Mapping[str, float] | None = None,
) -> list[float]:
    """Train the original module in a plain loop, client after client; only the random stream changes at the cuts.

    Returns the mean loss of every round.  ``clip_by_part`` bounds the gradient of the parameters whose names begin with
    one of ``"a|b"``.
    """
    seeds: list[int] = []
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda *_, number=number: start(seeds[number]))
        for number, name in enumerate(cuts, 1)
    ]
    model.train()
    means = []
    for round_number in rounds:
        total, count = 0.0, 0
        for client, samples in clients.items():
            for epoch in range(settings.local_epochs):
                order = derive(settings.seed, "order", round_number, client, epoch)
                for index, chosen in enumerate(batches(len(samples), settings.batch_size, order)):
                    inputs, targets = samples.take(chosen)
                    batch = settings.batch_seed(BatchKey(client, round_number, epoch, index))
                    seeds[:] = [part_seed(batch, role) for role in ("encoder", "backbone", "head")]
                    start(seeds[0])
                    loss = settings.loss(model(*inputs), targets)
                    steps.zero_grad()
                    loss.backward()
                    for prefixes, bound in (clip_by_part or {}).items():
                        mine = [p for n, p in model.named_parameters() if n.startswith(tuple(prefixes.split("|")))]
                        nn.utils.clip_grad_norm_(mine, bound)
                    steps.step()
                    total += float(loss.detach()) * len(chosen)
                    count += len(chosen)
        means.append(total / count)
    for hook in hooks:
        hook.remove()
    return means


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    """Say whether two sets of named tensors are equal bit for bit."""
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def apart(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """Return the largest relative difference ‖a − b‖/‖a‖ of the floating tensors of two sets."""
    assert left.keys() == right.keys()
    found = [
        float((left[k].double() - right[k].double()).norm() / left[k].double().norm().clamp_min(1e-12))
        for k in left
        if left[k].is_floating_point()
    ]
    return max(found, default=0.0)
