"""Nobody waits, on real services: the order is that of the real world, and the weights are those of that order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from system.deployed import Deployed, deployed

KEYS: dict[str, Any] = {"algorithm": "splitfed_async", "rounds": 3, "batch_size": 32}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with deployed(tmp_path_factory.mktemp("services")) as found:
        yield found


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"update": 1, "clients": {"count": 3, "fraction": 0.67}},
        {"codec": "int8", "update": {"every": 50, "unit": "samples"}},
    ],
    ids=["all", "some", "codec"],
)
def test_the_weights_are_those_of_the_order_of_arrival(
    keys: dict[str, Any], services: Deployed, tmp_path: Path
) -> None:
    view, experiment = services.train(**KEYS, **keys)
    updates = services.check_order(view.id, experiment, tmp_path)["updates"]
    lines = services.backend.metrics(view.id)
    assert len(lines) == len(updates) - 1 == experiment.rounds
    working = round(experiment.clients.fraction * 3)
    for line in lines:
        assert sum(map(len, updates[: line["round"]])) >= line["round"] * working
        assert sum(line["client_samples"].values()) == line["samples"] > 0
        assert line["test_accuracy"] is not None
