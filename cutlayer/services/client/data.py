"""A client's own data: what its operator named, or its share of what the experiment names."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cutlayer.config import Experiment
from cutlayer.data import Dataset, Share, Subset, client_splits, counts, load
from cutlayer.engines.prepare import Outline, load_dataset, make_shares
from cutlayer.errors import DataError
from cutlayer.recipes import get
from cutlayer.services.outlines import reported
from cutlayer.services.protocol import PrepareResult

EXPERIMENT = "experiment"


@dataclass(frozen=True)
class OwnData:
    """What one client trains and tests on, and what it tells others about it."""

    dataset: Dataset
    share: Share
    outline: Outline
    report: PrepareResult


def own_data(source: str, experiment: Experiment, number: int, clients: int) -> OwnData:
    """Return the data of client ``number`` of ``clients``.

    Raises DataError or ConfigError.  ``source`` is "experiment" or "package.module:function".
    """
    if source == EXPERIMENT:
        dataset = load_dataset(experiment.data)
        shares, _ = make_shares(experiment, dataset)
        if clients != len(shares):
            raise DataError(f"the experiment shares its data out to {len(shares)} clients, and {clients} take part")
        share = shares[number]
    else:
        dataset = load(source)
        share = _whole(dataset, experiment)
    inputs, outline = reported(dataset, experiment)
    report = PrepareResult(
        samples=len(share.train),
        test_samples=len(share.test),
        classes=dataset.classes,
        class_names=tuple(dataset.class_names),
        inputs=tuple(inputs),
        own=source != EXPERIMENT,
        counts=_counts(source, experiment, dataset, share),
    )
    return OwnData(dataset, share, outline, report)


def _counts(source: str, experiment: Experiment, dataset: Dataset, share: Share) -> tuple[int, ...] | None:
    """Return the training samples of each class, unless that would tell of labels that nobody else is to see."""
    recipe = get(experiment.algorithm)
    if source != EXPERIMENT and (recipe.whole or recipe.labels == "client"):
        return None
    return tuple(counts(dataset.train.targets, [share.train.index], dataset.classes)[0].tolist())


def _whole(dataset: Dataset, experiment: Experiment) -> Share:
    """Return all of an operator's data: its own test set if it has one, else a split of the training data."""
    everything = torch.arange(len(dataset.train))
    if len(dataset.test):
        return Share(Subset(dataset.train, everything), Subset(dataset.test, torch.arange(len(dataset.test))))
    fraction = experiment.clients.test_fraction
    return client_splits(dataset, [everything], fraction=fraction, seed=experiment.seed)[0]
