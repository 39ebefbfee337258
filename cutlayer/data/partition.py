"""Partitions: who holds which training samples.

Every scheme obeys one law: each training sample goes to exactly one client, the same for equal seeds, and no client
gets fewer than ``min_samples``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cutlayer.data.apportion import apportion, stratified
from cutlayer.data.samples import Dataset, Subset
from cutlayer.errors import ConfigError
from cutlayer.streams import derive

DRAWS = 100  # how often a random scheme is drawn again before samples are moved to clients that have too few

Counts = NDArray[np.int64]

SCHEMES: dict[str, tuple[str, ...]] = {  # every scheme with its options; all have min_samples too
    "iid": (),
    "dirichlet": ("alpha", "balanced"),
    "quantity": ("alpha",),
    "shards": ("shards",),
    "natural": (),
}


def partition(
    data: Dataset | Tensor,
    clients: int,
    scheme: str = "iid",
    seed: int = 0,
    *,
    min_samples: int = 2,
    **options: Any,
) -> list[Tensor]:
    """Return, for each client, the sorted int64 indices of its training samples.

    ``data`` is a Dataset or the labels, int64 (n,).  Schemes and their options:

    - iid: equal sizes, drawn at random.
    - dirichlet(alpha=0.5, balanced=False): every label is shared among the clients in proportions drawn from
      Dirichlet(alpha, ..., alpha), so sizes differ too: the form most published tables use.  balanced=True is the
      form of Hsu et al., "Measuring the effects of non-identical data distribution" (2019): equal sizes, and every
      client's mixture of labels drawn from Dirichlet(alpha * C * p), with C labels of frequencies p.  Both tend to iid
      mixtures as alpha grows.
    - quantity(alpha=0.5): sizes in proportions drawn from Dirichlet(alpha, ..., alpha), labels iid.
    - shards(shards=2): pieces that hold one label each, ``shards`` of them per client (McMahan et al. 2016), so a
      client sees at most ``shards`` labels, or as many more as it takes if clients * shards is below the labels.
    - natural: the data's own groups; with fewer clients than groups, whole groups share a client, largest first.

    Random draws that leave a client below ``min_samples`` are drawn again, up to 100 times; after that the largest
    client gives samples of its most frequent labels (iid, dirichlet, quantity).  Where that would break the scheme
    (shards, natural) it is an error.  Raises ConfigError.
    """
    if scheme not in SCHEMES:
        raise ConfigError(f"partition {scheme!r} is not a scheme; there are: {', '.join(SCHEMES)}")
    if clients < 1:
        raise ConfigError(f"clients must be at least 1, and {clients} came: choose a positive number")
    labels = _labels(data.train.targets if isinstance(data, Dataset) else data)
    if min_samples < 1:
        raise ConfigError(f"partition.min_samples must be at least 1, and {min_samples} came: a client needs a sample")
    if len(labels) < clients * min_samples:
        raise ConfigError(
            f"{clients} clients with at least {min_samples} samples each need {clients * min_samples} training "
            f"samples, and there are {len(labels)}: use fewer clients or a smaller partition.min_samples"
        )
    for option in options:
        if option not in SCHEMES[scheme]:
            known = ", ".join((*SCHEMES[scheme], "min_samples"))
            raise ConfigError(f"partition {scheme} has no option {option!r}; it has: {known}")
    if scheme == "natural":
        return _natural(data, clients, min_samples)
    draw: dict[str, Callable[..., list[Tensor]]] = {
        "iid": _iid,
        "dirichlet": _dirichlet,
        "quantity": _quantity,
        "shards": _shards,
    }
    random = np.random.default_rng(derive(seed, "partition", scheme))
    return draw[scheme](labels, clients, min_samples, random, **options)


def counts(labels: Tensor, parts: list[Tensor], classes: int) -> Counts:
    """Return how many samples of each label each client holds: int64 (clients, classes), the picture of a partition.

    Sequences with a label a position are counted by positions.
    """
    held = [labels.cpu()[part].flatten() for part in parts]
    return np.stack([torch.bincount(mine[mine >= 0], minlength=classes).numpy() for mine in held])


@dataclass(frozen=True)
class Share:
    """One client's data: what it trains on and what it tests on (which may be empty)."""

    train: Subset
    test: Subset


def client_splits(
    data: Dataset, parts: list[Tensor], *, fraction: float = 0.1, seed: int = 0, by_group: bool = False
) -> list[Share]:
    """Return each client's Share: round(fraction * n) of its samples for testing, in its own mixture of labels.

    The global test set is not touched.  With ``by_group`` (the natural partition) and a data set that names the groups
    of its test samples, a client keeps all its training samples and tests on its groups' part of the test set instead.
    """
    if by_group and data.groups is not None and data.test_groups is not None:
        return [
            Share(
                Subset(data.train, part),
                Subset(data.test, torch.nonzero(torch.isin(data.test_groups, data.groups[part])).flatten()),
            )
            for part in parts
        ]
    labels, shares = _labels(data.train.targets), []
    for client, part in enumerate(parts):
        train, test = stratified(labels[part], fraction, seed, "client test", client)
        shares.append(Share(Subset(data.train, part[train]), Subset(data.train, part[test])))
    return shares


def _labels(targets: Tensor) -> Tensor:
    """Return one label a sample; sequences, with a label a position, are all of one kind."""
    return targets.cpu() if targets.dim() == 1 else torch.zeros(len(targets), dtype=torch.int64)


def _alpha(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1e-6 <= value <= 1e9:
        raise ConfigError(
            f"partition.alpha must be a number from 1e-6 (one label each) to 1e9 (iid), and {value!r} came: 0.5 is a "
            "usual choice"
        )
    return float(value)


def _iid(labels: Tensor, clients: int, minimum: int, random: np.random.Generator) -> list[Tensor]:
    return _deal(random.permutation(len(labels)), apportion(len(labels), np.ones(clients)))


def _quantity(
    labels: Tensor, clients: int, minimum: int, random: np.random.Generator, alpha: float = 0.5
) -> list[Tensor]:
    alpha = _alpha(alpha)
    for _ in range(DRAWS):
        sizes = apportion(len(labels), _dirichlet_row(random, np.full(clients, alpha)))
        if sizes.min() >= minimum:
            break
    return _deal(random.permutation(len(labels)), _raise_to(sizes[:, None], minimum)[:, 0])


def _dirichlet(
    labels: Tensor,
    clients: int,
    minimum: int,
    random: np.random.Generator,
    alpha: float = 0.5,
    balanced: bool = False,
) -> list[Tensor]:
    alpha = _alpha(alpha)
    if not isinstance(balanced, bool):
        raise ConfigError(f"partition.balanced must be true or false, and {balanced!r} came")
    values, inverse, totals = np.unique(labels.numpy(), return_inverse=True, return_counts=True)
    for _ in range(DRAWS):
        if balanced:
            weights = _fit(
                np.stack([_dirichlet_row(random, alpha * len(values) * totals / totals.sum()) for _ in range(clients)]),
                np.full(clients, len(labels) / clients),
                totals.astype(np.float64),
            )
        else:
            weights = np.stack([_dirichlet_row(random, np.full(clients, alpha)) for _ in values], axis=1)
        table = np.stack([apportion(int(n), weights[:, c]) for c, n in enumerate(totals)], axis=1)
        if table.sum(1).min() >= minimum:
            break
    table = _raise_to(table, minimum)
    dealt = [_deal(random.permutation(np.flatnonzero(inverse == c)), table[:, c]) for c in range(len(values))]
    return [torch.cat(mine).sort().values for mine in zip(*dealt, strict=True)]


def _shards(labels: Tensor, clients: int, minimum: int, random: np.random.Generator, shards: int = 2) -> list[Tensor]:
    if isinstance(shards, bool) or not isinstance(shards, int) or shards < 1:
        raise ConfigError(f"partition.shards must be a positive whole number, and {shards!r} came: 2 is the usual one")
    values, inverse, totals = np.unique(labels.numpy(), return_inverse=True, return_counts=True)
    pieces = clients * shards
    if pieces > len(labels):
        raise ConfigError(
            f"{clients} clients with {shards} shards each need at least {pieces} training samples, and there are "
            f"{len(labels)}: use fewer clients or a smaller partition.shards"
        )
    # One piece per label at least, the others where the labels are most frequent.
    per_label = np.ones(len(values), dtype=np.int64)
    while per_label.sum() < pieces:
        per_label[np.argmax(totals / per_label)] += 1
    cut = [
        piece
        for c, n in enumerate(per_label)
        for piece in np.array_split(random.permutation(np.flatnonzero(inverse == c)), n)
    ]
    for _ in range(DRAWS):
        hands = np.array_split(random.permutation(len(cut)), clients)
        parts = [
            torch.from_numpy(np.sort(np.concatenate([cut[i] for i in hand]))) if len(hand) else None for hand in hands
        ]
        if all(part is not None and len(part) >= minimum for part in parts):
            return [part for part in parts if part is not None]
    raise ConfigError(
        f"no deal of {shards} shards to each of {clients} clients gave every client {minimum} samples: use fewer "
        "clients, more shards, or a smaller partition.min_samples"
    )


def _natural(data: Dataset | Tensor, clients: int, minimum: int) -> list[Tensor]:
    if not isinstance(data, Dataset) or data.groups is None:
        name = f"data {data.name}" if isinstance(data, Dataset) else "a tensor of labels"
        raise ConfigError(
            f"partition natural needs data that names the client of every sample, and {name} does not: choose another "
            "partition, or data with groups (heart_disease, csv with data.group, npz with client)"
        )
    members = [torch.nonzero(data.groups == group).flatten() for group in torch.unique(data.groups)]
    if clients > len(members):
        raise ConfigError(
            f"partition natural has {len(members)} groups in data {data.name}, and {clients} clients came: use at most "
            f"{len(members)} clients"
        )
    hands: list[list[Tensor]] = [[] for _ in range(clients)]
    order = (
        range(len(members)) if clients == len(members) else sorted(range(len(members)), key=lambda g: -len(members[g]))
    )
    sizes = [0] * clients
    for group in order:
        client = sizes.index(min(sizes))
        hands[client].append(members[group])
        sizes[client] += len(members[group])
    if min(sizes) < minimum:
        raise ConfigError(
            f"partition natural leaves a client with {min(sizes)} samples, and partition.min_samples is {minimum}: use "
            "fewer clients, so that groups are put together, or a smaller partition.min_samples"
        )
    return [torch.cat(hand).sort().values for hand in hands]


def _deal(order: NDArray[np.int64], sizes: Counts) -> list[Tensor]:
    """Cut ``order`` into consecutive pieces of ``sizes``, each sorted."""
    return [torch.from_numpy(np.sort(piece)) for piece in np.split(order, np.cumsum(sizes)[:-1])]


def _dirichlet_row(random: np.random.Generator, alpha: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draw from Dirichlet(alpha), in logarithms: with tiny alphas all gamma draws would round to zero."""
    # Gamma(a) has the law of Gamma(a + 1) * U^(1/a).
    logs = np.log(random.gamma(alpha + 1)) + np.log1p(-random.random(len(alpha))) / alpha
    weights: NDArray[np.float64] = np.exp(logs - logs.max())
    weights /= weights.sum()
    return weights


def _fit(mixtures: NDArray[np.float64], rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale rows and columns of ``mixtures`` in turn until they sum to ``rows`` and ``columns``.

    The clients' mixtures are drawn without regard to how many samples of a label there are; this is the nearest table
    (in relative entropy) that uses every sample: iterative proportional fitting.
    """
    table = np.maximum(mixtures, 1e-9)
    for _ in range(200):
        table *= (rows / table.sum(1))[:, None]
        table *= columns / table.sum(0)
    return table


def _raise_to(table: Counts, minimum: int) -> Counts:
    """Move samples, one at a time, from the largest client's most frequent label to clients below ``minimum``."""
    table = table.copy()
    sizes = table.sum(1)
    for client in np.flatnonzero(sizes < minimum):
        while sizes[client] < minimum:
            giver = int(np.argmax(sizes))
            label = int(np.argmax(table[giver]))
            table[giver, label] -= 1
            table[client, label] += 1
            sizes[giver] -= 1
            sizes[client] += 1
    return table
