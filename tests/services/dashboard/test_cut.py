"""The picture of the model: who holds what, and what a sample sends."""

from __future__ import annotations

import pytest

from cutlayer.services.dashboard.charts.cut import cut_model

TWO = {
    "method": "fx",
    "cuts": ["relu1"],
    "parts": {"encoder": {"parameters": 25}, "backbone": {"parameters": 75}},
    "crossings": [{"cut": "relu1", "name": "relu1", "shape": [64], "dtype": "float32", "bytes": 256.0}],
}
THREE = {
    "method": "fx",
    "cuts": ["a", "b"],
    "parts": {"encoder": {"parameters": 10}, "backbone": {"parameters": 80}, "head": {"parameters": 10}},
    "crossings": [
        {"cut": "a", "name": "x", "shape": [8, 4], "dtype": "float32", "bytes": 128.0},
        {"cut": "a", "name": "skip", "shape": [2], "dtype": "float32", "bytes": 8.0},
        {"cut": "b", "name": "z", "shape": [3], "dtype": "float32", "bytes": 12.0},
    ],
}


def experiment(algorithm: str) -> dict[str, object]:
    return {"algorithm": {"name": algorithm}, "batch_size": 16}


def test_two_parts() -> None:
    found = cut_model(TWO, experiment("splitfed_v1"))
    assert [(p.name, p.side, p.share) for p in found.parts] == [
        ("encoder", "client", 0.25),
        ("backbone", "server", 0.75),
    ]
    (crossing,) = found.crossings
    assert (crossing.sample, crossing.batch) == (256.0, 4096.0)
    assert (crossing.forward, crossing.backward) == ("activations", "gradients")
    assert found.labels == "server"
    assert found.summary == "A client holds 25 parameters, a server 75; cut at relu1."


def test_the_u_shape_keeps_labels_at_the_client() -> None:
    found = cut_model(THREE, experiment("ushaped"))
    assert [p.side for p in found.parts] == ["client", "server", "client"]
    assert [c.sample for c in found.crossings] == [136.0, 12.0]
    assert len(found.crossings[0].tensors) == 2
    assert found.labels == "client"


@pytest.mark.parametrize("algorithm", ["fsl_sage"])
def test_with_a_loss_of_its_own_nothing_comes_back(algorithm: str) -> None:
    assert cut_model(TWO, experiment(algorithm)).crossings[0].backward is None


def test_a_model_that_is_not_cut_is_the_clients() -> None:
    found = cut_model(TWO, experiment("fedavg"))
    assert {p.side for p in found.parts} == {"client"}
    assert found.crossings == ()


def test_an_algorithm_of_somebodys_own() -> None:
    assert cut_model(TWO, experiment("mine.recipes:best")).crossings[0].backward == "gradients"
