"""Weight versions: one winner each, never without their optimizer state."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from cutlayer.errors import MissingObject, NoSpace, ObjectExists
from cutlayer.store import MemoryStore, TensorStore, WeightVersions


def test_what_is_published_is_loaded(store: TensorStore) -> None:
    versions = WeightVersions(store, "r")
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    versions.publish("backbone", 3, model.state_dict(), optimizer.state_dict(), {"round": 2})
    weights, meta = versions.load("backbone", 3)
    assert meta == {"round": 2}
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    other = torch.optim.Adam(model.parameters(), lr=7.0)
    other.load_state_dict(versions.load_optimizer("backbone", 3))
    assert other.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    for one, two in zip(other.state_dict()["state"].values(), optimizer.state_dict()["state"].values(), strict=True):
        assert all(torch.equal(one[name], two[name]) for name in two)


def test_an_optimizer_without_tensors_takes_no_object_of_its_own(store: TensorStore) -> None:
    versions = WeightVersions(store, "r")
    state = {"lr": 0.1, "steps": (1, 2), "groups": [{"a": None}], "bound": float("inf")}
    versions.publish("backbone", 0, {"w": torch.ones(3)}, state)
    assert versions.load_optimizer("backbone", 0) == state
    assert store.list("") == ["runs/r/weights/backbone/00000000"]


def test_training_on_does_not_change_what_was_published(store: TensorStore) -> None:
    versions, weight = WeightVersions(store, "r"), torch.ones(3)
    momentum = torch.ones(3)
    versions.publish("backbone", 0, {"w": weight}, {"momentum": momentum})
    weight.zero_()
    momentum.zero_()
    assert versions.load("backbone", 0)[0]["w"].tolist() == [1.0, 1.0, 1.0]
    assert versions.load_optimizer("backbone", 0)["momentum"].tolist() == [1.0, 1.0, 1.0]


def test_versions_are_listed_by_part(store: TensorStore) -> None:
    versions = WeightVersions(store, "r")
    assert versions.latest("backbone") is None
    for part, version in (("backbone", 9), ("backbone", 10), ("auxiliary/3", 1), ("auxiliary/12", 4)):
        versions.publish(part, version, {})
    assert versions.versions("backbone") == [9, 10]
    assert versions.latest("backbone") == 10
    assert versions.latest("auxiliary/3") == 1
    assert versions.latest("auxiliary") is None
    assert versions.parts() == ["auxiliary/12", "auxiliary/3", "backbone"]
    assert versions.load_optimizer("backbone", 9) is None
    with pytest.raises(MissingObject):
        versions.load("backbone", 11)


def test_one_of_several_reducers_wins(store: TensorStore) -> None:
    results: list[Any] = []

    def reducer(number: int) -> None:
        versions = WeightVersions(store, "r")
        try:
            versions.publish("backbone", 1, {"w": torch.tensor([number])}, {"s": torch.tensor([number])})
        except ObjectExists:
            results.append(None)
        else:
            results.append(number)

    threads = [threading.Thread(target=reducer, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [number for number in results if number is not None]
    versions = WeightVersions(store, "r")
    assert versions.load("backbone", 1)[0]["w"].item() == winner
    assert versions.load_optimizer("backbone", 1)["s"].item() == winner
    assert len(store.list("runs/r/optimizers")) == 1


def test_a_publication_that_fails_leaves_nothing() -> None:
    store = MemoryStore(max_bytes=6000)
    with pytest.raises(NoSpace):
        WeightVersions(store, "r").publish("backbone", 0, {"w": torch.zeros(1000)}, {"s": torch.zeros(1000)})
    assert store.list("") == []


def test_collecting_spares_the_newest_the_kept_and_the_pinned(store: TensorStore) -> None:
    versions = WeightVersions(store, "r")
    for version in range(6):
        versions.publish("backbone", version, {"w": torch.zeros(2)}, {"s": torch.zeros(2)})
    versions.pin("backbone", 1, "evaluation")
    versions.collect("backbone", {3})
    assert versions.versions("backbone") == [1, 3, 5]
    assert versions.load_optimizer("backbone", 3) is not None
    assert len(store.list("runs/r/optimizers")) == 3
    versions.unpin("backbone", 1, "evaluation")
    versions.collect("backbone", set())
    assert versions.versions("backbone") == [5]
    with pytest.raises(MissingObject, match="pinned"):
        versions.pin("backbone", 1, "evaluation")
    assert versions.pinned("backbone") == set()


def test_collecting_leaves_an_optimizer_state_whose_weights_are_about_to_come(store: TensorStore) -> None:
    versions = WeightVersions(store, "r")
    store.put("runs/r/optimizers/backbone/00000000-a", {})
    assert versions.collect("backbone", set()) == []
    versions.publish("backbone", 0, {})
    store.put("runs/r/optimizers/backbone/00000001-b", {})
    versions.collect("backbone", set())
    assert store.exists("runs/r/optimizers/backbone/00000001-b")
