"""Requests delayed, repeated at once, repeated long after, each sent to another replica: the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from system.nursery import Nursery
from system.proxy import Manners, Proxy
from system.supervised import Supervised, Undisturbed, supervised

RECIPES: list[Any] = [
    "file_sync", "ushaped",
    {"name": "fsl_sage", "upload_every": 2, "align_every": 1, "align_epochs": 1, "align_batch": 50, "buffer": 100},
]  # fmt: skip
MORE: list[Any] = [
    "splitfed_v1", "splitfed_v2", "splitfed_u", "vanilla", "psl", "sglr", "fedavg",
    {"name": "cse_fsl", "upload_every": 2},
]  # fmt: skip


@pytest.fixture(scope="module")
def network() -> Iterator[dict[str, Proxy]]:
    """What lies between clients and services."""
    manners = {"split": Manners(0.5, 0.3, 0.3), "fed": Manners(0.5, 0.4, 0.4), "backend": Manners(0.3, 0.2, 0.2, 0.02)}
    found = {kind: Proxy(each, seed) for seed, (kind, each) in enumerate(manners.items())}
    yield found
    for proxy in found.values():
        proxy.close()


@pytest.fixture(scope="module")
def services(
    tmp_path_factory: pytest.TempPathFactory, nursery: Nursery, network: dict[str, Proxy]
) -> Iterator[Supervised]:
    with supervised(tmp_path_factory.mktemp("disorder"), nursery, split=3, network=network) as found:
        yield found


def same_weights(
    recipe: Any, services: Supervised, network: dict[str, Proxy], undisturbed: Undisturbed, folder: Path
) -> None:
    before = {kind: proxy.repeated for kind, proxy in network.items()}
    view, experiment = services.train(algorithm=recipe)
    services.check(view.id, experiment, folder, undisturbed(experiment))
    assert [proxy.wrong for proxy in network.values()] == [[], [], []]
    wanted = {"split", "fed", "backend"} if experiment.algorithm["name"] != "fedavg" else {"fed", "backend"}
    assert wanted <= {kind for kind, proxy in network.items() if proxy.repeated > before[kind]}


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_disorder_changes_nothing(
    recipe: Any, services: Supervised, network: dict[str, Proxy], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    same_weights(recipe, services, network, undisturbed, tmp_path)


@pytest.mark.chaos
@pytest.mark.parametrize("recipe", MORE, ids=str)
def test_disorder_changes_nothing_in_more_recipes(
    recipe: Any, services: Supervised, network: dict[str, Proxy], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    same_weights(recipe, services, network, undisturbed, tmp_path)
