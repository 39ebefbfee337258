"""The same experiment in one process and on services: the same weights bit for bit, the same bytes, the same scores."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cutlayer.api import run_experiment
from cutlayer.commands.collecting import collect
from system.deployed import Deployed, deployed, in_process

RECIPES: list[Any] = [
    "vanilla", "ushaped", "splitfed_v1", "splitfed_v2", "splitfed_u", "file_sync", "fedavg",
    {"name": "cse_fsl", "upload_every": 2},
    {"name": "fsl_sage", "upload_every": 2, "align_every": 1, "align_epochs": 2, "align_batch": 50, "buffer": 100},
]  # fmt: skip


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with deployed(tmp_path_factory.mktemp("services")) as found:
        yield found


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_services_give_the_weights_of_one_process(recipe: Any, services: Deployed, tmp_path: Path) -> None:
    view, experiment = services.train(algorithm=recipe)
    expected, metrics = in_process(experiment)
    found = services.model(view.id, tmp_path)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    there = services.backend.metrics(view.id)
    assert len(there) == len(metrics)
    for here, other in zip(metrics, there, strict=True):
        for key in ("round", "samples", "clients", "bytes_up", "bytes_down", "bytes", "client_samples"):
            assert other[key] == here[key], key
        assert other["test_accuracy"] == here["test_accuracy"]
        assert other["client_accuracy"] == here["client_accuracy"]
        assert other["loss"] == pytest.approx(here["loss"], rel=1e-6)


@pytest.mark.parametrize("codec", ["int8", {"name": "topk", "ratio": 0.3, "feedback": False}], ids=str)
def test_codecs_on_services_lose_what_they_lose_in_one_process(codec: Any, services: Deployed, tmp_path: Path) -> None:
    view, experiment = services.train(algorithm="file_sync", codec=codec, local_epochs=2)
    expected, metrics = in_process(experiment)
    found = services.model(view.id, tmp_path)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert [m["bytes_up"] for m in services.backend.metrics(view.id)] == [m["bytes_up"] for m in metrics]


def test_a_window_with_labels_at_the_server(services: Deployed, tmp_path: Path) -> None:
    recipe = {"name": "splitfed_v2", "step": "window"}
    view, experiment = services.train(algorithm=recipe, update={"every": 2}, local_epochs=2)
    expected, metrics = in_process(experiment)
    found = services.model(view.id, tmp_path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    there = services.backend.metrics(view.id)
    assert [m["bytes_up"] for m in there] == [m["bytes_up"] for m in metrics]
    assert [m["loss"] for m in there] == pytest.approx([m["loss"] for m in metrics], rel=1e-6)


def test_the_run_folder_holds_what_that_of_one_process_holds(services: Deployed, tmp_path: Path) -> None:
    view, experiment = services.train(algorithm="ushaped", rounds=1)
    run_experiment(experiment.model_copy(update={"out": str(tmp_path / "one")}))
    collect(services.backend, view, tmp_path / "many")
    assert files(tmp_path / "many") == files(tmp_path / "one") - {"checkpoints", ".lock"}
    one, many = (json.loads((tmp_path / name / "partition.json").read_text()) for name in ("one", "many"))
    assert (many["scheme"], many["classes"]) == (one["scheme"], one["classes"])
    for here, there in zip(one["clients"], many["clients"], strict=True):
        assert {key: there[key] for key in here} == here
        assert there["samples"] == sum(here["counts"])


def files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_an_ended_run_leaves_nothing_in_the_store_but_what_counted(services: Deployed) -> None:
    view, _ = services.train(algorithm="file_sync", rounds=1)
    folder = services.there.folder / "store" / "runs" / view.id

    def left() -> set[str]:
        return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}

    until = time.monotonic() + 60
    while left() != {"states/rounds/000001"} and time.monotonic() < until:
        time.sleep(0.1)
    assert left() == {"states/rounds/000001"}
