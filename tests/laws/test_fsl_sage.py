"""FSL-SAGE with an auxiliary that is the backbone is vanilla split learning without the cut gradients."""

from __future__ import annotations

from typing import Any

import pytest
import toys

import cutlayer as cl

FROZEN_SERVER: dict[str, Any] = {"name": "sgd", "lr": 0.05, "momentum": 0.5, "server": {"lr": 0.0}}


@pytest.mark.parametrize("align_every", [1, 5])
@pytest.mark.parametrize("aligner", ["sgd", "adam"])
def test_estimates_of_an_exact_auxiliary_train_as_cut_gradients_do(align_every: int, aligner: str) -> None:
    data = toys.dataset(toys.rows(50), toys.rows(20, 1))
    split = toys.cut(toys.made(toys.Plain), ["relu1"], data.train)
    keys: dict[str, Any] = {"clients": 1, "rounds": 3, "batch_size": 8}
    optimizer = {**FROZEN_SERVER, "auxiliary": {"name": aligner, "lr": 0.01}}
    sage = {"name": "fsl_sage", "align_every": align_every, "align_epochs": 5, "align_batch": 16}
    found = cl.run(sage, split, data, auxiliary="backbone", optimizer=optimizer, **keys)
    expected = cl.run("vanilla", split, data, optimizer=FROZEN_SERVER, **keys)
    assert toys.apart(expected.model, found.model) <= 1e-5
    assert found.summary["bytes_down"] < expected.summary["bytes_down"]


def test_aligned_auxiliaries_go_down_with_the_next_round() -> None:
    data = toys.dataset(toys.rows(50), toys.rows(20, 1))
    split = toys.cut(toys.made(toys.Plain), ["relu1"], data.train)
    sage = {"name": "fsl_sage", "align_every": 3, "align_epochs": 1}
    result = cl.run(sage, split, data, clients=2, rounds=7, batch_size=8, evaluate=7)
    down = [m["bytes_down"] for m in result.metrics]
    aligned = [number for number, count in enumerate(down, 1) if count > min(down)]
    assert aligned == [1, 2, 5], "the first ones, those of round 1, of round 4; those of round 7 nobody waits for"
