"""The laws of a partition, for every scheme."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cutlayer.data import SCHEMES, Dataset, TensorSamples, client_splits, counts, load, partition
from cutlayer.errors import ConfigError

RANDOM = [
    ("iid", {}),
    ("dirichlet", {"alpha": 0.5}),
    ("dirichlet", {"alpha": 0.01}),
    ("dirichlet", {"alpha": 0.5, "balanced": True}),
    ("dirichlet", {"alpha": 1e-6, "balanced": True}),
    ("quantity", {"alpha": 0.05}),
    ("shards", {"shards": 2}),
]


def labels_of(n: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


def grouped(groups: list[int], test_groups: list[int] | None = None) -> Dataset:
    n = len(groups)
    test = test_groups or [0, 0]
    return Dataset(
        "grouped",
        TensorSamples(torch.zeros(n, 1), torch.arange(n) % 2),
        TensorSamples(torch.zeros(len(test), 1), torch.arange(len(test)) % 2),
        2,
        ("a", "b"),
        (1,),
        groups=torch.tensor(groups),
        test_groups=None if test_groups is None else torch.tensor(test_groups),
        group_names=tuple(f"hospital {i}" for i in range(max([*groups, *test]) + 1)),
    )


@pytest.mark.parametrize(("scheme", "options"), RANDOM)
@given(n=st.integers(20, 400), classes=st.integers(2, 12), clients=st.integers(1, 10), seed=st.integers(0, 2**40))
@settings(max_examples=25, deadline=None)
def test_every_sample_goes_to_one_client_and_none_goes_short(
    scheme: str, options: dict[str, Any], n: int, classes: int, clients: int, seed: int
) -> None:
    labels = labels_of(n, classes, seed)
    minimum = 1 if scheme == "shards" else 2
    parts = partition(labels, clients, scheme, seed, min_samples=minimum, **options)
    assert len(parts) == clients
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(n))
    assert min(len(part) for part in parts) >= minimum
    assert all(torch.equal(part, part.sort().values) and part.dtype == torch.int64 for part in parts)
    again = partition(labels, clients, scheme, seed, min_samples=minimum, **options)
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))


@pytest.mark.parametrize(("scheme", "options"), RANDOM)
@pytest.mark.parametrize("clients", [1, 2, 1000])
def test_from_one_client_to_a_thousand(scheme: str, options: dict[str, Any], clients: int) -> None:
    labels = labels_of(20_000, 10)
    parts = partition(labels, clients, scheme, 5, **options)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(20_000))
    assert min(len(part) for part in parts) >= 2


@pytest.mark.parametrize(("scheme", "options"), RANDOM)
def test_another_seed_is_another_partition(scheme: str, options: dict[str, Any]) -> None:
    labels = labels_of(500, 10)
    first, second = partition(labels, 5, scheme, 0, **options), partition(labels, 5, scheme, 1, **options)
    assert any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_order_of_samples_is_all_a_partition_reads() -> None:
    data = load("digits")
    for scheme in ("iid", "dirichlet"):
        of_data, of_labels = partition(data, 5, scheme, 3), partition(data.train.targets, 5, scheme, 3)
        assert all(torch.equal(a, b) for a, b in zip(of_data, of_labels, strict=True))


def test_iid_clients_are_equally_large() -> None:
    sizes = [len(part) for part in partition(labels_of(1003, 10), 10, "iid", 0)]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("balanced", [False, True])
def test_dirichlet_tends_to_iid_as_alpha_grows_and_to_single_labels_as_it_shrinks(balanced: bool) -> None:
    labels = labels_of(10_000, 10)

    def distance(alpha: float) -> float:
        table = counts(labels, partition(labels, 10, "dirichlet", 1, alpha=alpha, balanced=balanced), 10)
        mixtures = table / table.sum(1, keepdims=True)
        return float(np.abs(mixtures - table.sum(0) / table.sum()).sum(1).mean() / 2)  # total variation

    near, middle, far = distance(1e5), distance(1.0), distance(0.01)
    assert near < 0.02
    assert near < middle < far
    assert far > 0.7


def test_balanced_dirichlet_gives_equal_sizes() -> None:
    parts = partition(labels_of(5000, 10), 20, "dirichlet", 0, alpha=0.5, balanced=True)
    assert all(abs(len(part) - 250) <= 25 for part in parts)


def test_balanced_dirichlet_mixtures_are_drawn_around_the_frequencies_of_labels() -> None:
    labels = (torch.arange(40_000) % 20 == 0).long()  # one in twenty
    table = counts(labels, partition(labels, 100, "dirichlet", 0, alpha=1.0, balanced=True), 2)
    # Beta(1.9, 0.1), and not the uniform Beta(1, 1): most clients see next to nothing of the rare label.
    assert (table[:, 1] <= 4).mean() > 0.5


def test_dirichlet_proportions_have_the_variance_of_the_distribution() -> None:
    labels = torch.zeros(100_000, dtype=torch.int64)
    alpha, clients = 0.5, 4
    shares = np.concatenate(
        [[len(p) / 100_000 for p in partition(labels, clients, "dirichlet", s, alpha=alpha)] for s in range(300)]
    )
    expected = (1 / clients) * (1 - 1 / clients) / (clients * alpha + 1)
    assert shares.var() == pytest.approx(expected, rel=0.15)


def test_quantity_varies_sizes_and_keeps_the_mixture() -> None:
    labels = labels_of(20_000, 4)
    table = counts(labels, partition(labels, 5, "quantity", 2, alpha=1.0), 4)
    sizes = table.sum(1)
    assert sizes.max() > 2 * sizes.min()
    large = table[sizes > 1000]
    assert np.abs(large / large.sum(1, keepdims=True) - 0.25).max() < 0.05


@given(clients=st.integers(1, 20), shards=st.integers(1, 4), classes=st.integers(2, 10), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_a_client_sees_no_more_labels_than_shards(clients: int, shards: int, classes: int, seed: int) -> None:
    labels = labels_of(600, classes, seed)
    parts = partition(labels, clients, "shards", seed, shards=shards, min_samples=1)
    present = len(torch.unique(labels))
    seen = [len(torch.unique(labels[part])) for part in parts]
    if clients * shards >= present:
        assert max(seen) <= shards
    else:
        assert sum(seen) == present
        assert max(seen) - min(seen) <= 1


def test_natural_clients_are_the_groups() -> None:
    parts = partition(grouped([2, 0, 2, 0, 1, 1, 2]), 3, "natural", 0)
    assert [part.tolist() for part in parts] == [[1, 3], [4, 5], [0, 2, 6]]


@given(st.lists(st.integers(0, 6), min_size=14, max_size=80), st.integers(1, 4))
def test_fewer_clients_share_whole_groups(groups: list[int], clients: int) -> None:
    data = grouped([*range(7), *groups])
    parts = partition(data, clients, "natural", 0)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(data.train)))
    holders = [{int(g) for g in data.groups[part]} for part in parts]  # type: ignore[index]
    assert sum(len(held) for held in holders) == 7


def test_a_client_test_split_follows_its_mixture() -> None:
    data = load("digits")
    parts = partition(data, 5, "dirichlet", 0)
    shares = client_splits(data, parts, fraction=0.2, seed=0)
    for part, share in zip(parts, shares, strict=True):
        assert sorted(share.train.index.tolist() + share.test.index.tolist()) == part.tolist()
        assert len(share.test) == round(0.2 * len(part))
        whole = torch.bincount(data.train.targets[part], minlength=10) / len(part)
        mine = torch.bincount(share.test.targets, minlength=10) / len(share.test)
        assert float((whole - mine).abs().max()) <= 1 / len(share.test)
        assert share.test.base is data.train


def test_small_clients_keep_their_samples_for_training() -> None:
    data = load("digits")
    shares = client_splits(data, [torch.tensor([0, 1]), torch.tensor([2])], seed=0)
    assert [len(share.train) for share in shares] == [2, 1]
    assert [len(share.test) for share in shares] == [0, 0]


def test_natural_clients_test_on_their_groups_test_samples() -> None:
    data = grouped([0, 1, 0, 1, 2, 2], [2, 0, 1, 0])
    shares = client_splits(data, partition(data, 3, "natural", 0), by_group=True)
    assert [share.train.index.tolist() for share in shares] == [[0, 2], [1, 3], [4, 5]]
    assert [share.test.index.tolist() for share in shares] == [[1, 3], [2], [0]]
    assert all(share.test.base is data.test for share in shares)


def test_without_test_groups_natural_clients_split_their_own() -> None:
    data = grouped([0] * 20 + [1] * 30)
    shares = client_splits(data, partition(data, 2, "natural", 0), by_group=True, fraction=0.1)
    assert [len(share.test) for share in shares] == [2, 3]
    assert all(share.test.base is data.train for share in shares)


def test_counts_are_a_table_of_clients_and_labels() -> None:
    table = counts(torch.tensor([0, 1, 1, 3]), [torch.tensor([0, 1]), torch.tensor([2, 3])], 4)
    assert table.tolist() == [[1, 1, 0, 0], [0, 1, 0, 1]]
    assert table.dtype == np.int64


@pytest.mark.parametrize(
    ("scheme", "clients", "options", "message"),
    [
        ("dirichelt", 5, {}, "there are: iid, dirichlet, quantity, shards, natural"),
        ("iid", 0, {}, "clients must be at least 1"),
        ("iid", 5, {"alpha": 1.0}, "partition iid has no option 'alpha'"),
        ("iid", 60, {}, "need 120 training samples, and there are 100"),
        ("iid", 5, {"min_samples": 0}, "min_samples must be at least 1"),
        ("dirichlet", 5, {"alpha": 0}, "alpha must be a number from 1e-6 .* and 0 came"),
        ("dirichlet", 5, {"alpha": "x"}, "alpha must be a number from 1e-6 .* and 'x' came"),
        ("dirichlet", 5, {"balanced": 1}, "balanced must be true or false"),
        ("quantity", 5, {"alpha": -1.0}, "alpha must be a number"),
        ("shards", 5, {"shards": 0}, "shards must be a positive whole number"),
        ("shards", 5, {"shards": 50}, "250 training samples, and there are 100"),
        ("shards", 5, {"shards": 1, "min_samples": 20}, "no deal of 1 shards"),
        ("natural", 5, {}, "does not: choose another partition"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(scheme: str, clients: int, options: dict[str, Any], message: str) -> None:
    labels = torch.cat([torch.zeros(55, dtype=torch.int64), torch.arange(45) % 4])
    with pytest.raises(ConfigError, match=message):
        partition(labels, clients, scheme, 0, **options)


def test_natural_limits_are_named() -> None:
    with pytest.raises(ConfigError, match="has 2 groups in data grouped, and 3 clients came"):
        partition(grouped([0] * 5 + [1] * 5), 3, "natural", 0)
    with pytest.raises(ConfigError, match="leaves a client with 1 samples"):
        partition(grouped([0] * 5 + [1]), 2, "natural", 0)


def test_every_scheme_is_in_the_table() -> None:
    assert tuple(SCHEMES) == ("iid", "dirichlet", "quantity", "shards", "natural")
