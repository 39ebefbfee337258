"""An asynchronous run once more, in one process, in the order in which things came in the real world."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cutlayer.config import Experiment
from cutlayer.engines.asynchronous import AsynchronousEngine
from cutlayer.engines.prepare import prepare


def replayed(experiment: Experiment, arrivals: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights that follow from ``arrivals``: the batches of every round, the updates, what they took."""
    torch.set_num_threads(1)
    prepared = prepare(experiment)
    engine = AsynchronousEngine(prepared.setup, prepared.settings)
    taken = {(client, passes): version for client, passes, version in arrivals["taken"]}
    updates = [(client, passes) for each in arrivals["updates"] for client, passes in each]
    counted = sum(len(each) for each in arrivals["updates"][:-1])
    encoders: list[dict[str, Tensor]] = []

    def begin_those_of(version: int) -> None:
        encoders.append({k: t.clone() for k, t in engine.federated.parts["encoder"].items()})
        for client in sorted(client for (client, _), v in taken.items() if v == version):
            engine.begin(client)

    def mix_until(version: int) -> None:
        while engine.mixes < version:
            engine.mix(updates[engine.mixes][0])
            begin_those_of(engine.mixes)

    begin_those_of(0)
    for batches in arrivals["batches"]:
        for client, passes, _, _ in batches:
            mix_until(taken[client, passes])
            engine.arrival(client)
        engine.end_round()
    assert engine.server is not None
    backbone = engine.server.backbone.snapshot()
    mix_until(counted)
    return {**encoders[counted], **backbone}
