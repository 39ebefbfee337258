"""How good the model is: on the global test set and at every client; and the joined model itself."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from cutlayer.engines.local import LocalEngine
from cutlayer.roles.aggregators import weighted_mean
from cutlayer.roles.evaluation import Score
from cutlayer.roles.evaluation import evaluate as score


def evaluate(engine: LocalEngine) -> dict[str, Any]:
    """Return the metrics of the model as it is: on the global test set, and on every client's own test split.

    Where clients keep encoders or heads of their own there is no one model: ``test_accuracy`` is then the mean over
    clients, weighted by samples, of each one's model on the whole global test set.
    """
    start = perf_counter()
    personal = engine.personal_parts
    own: dict[int, Score] = {}
    if personal:
        total = Score()
        weighted, weight = 0.0, 0
        for number, share in enumerate(engine.shares):
            _write(engine, number)
            found = _score(engine, engine.setup.dataset.test)
            total += found
            weighted += (found.accuracy or 0.0) * len(share.train)
            weight += len(share.train)
            own[number] = _score(engine, share.test)
        accuracy: float | None = weighted / max(weight, 1)
    else:
        _write(engine, None)
        total = _score(engine, engine.setup.dataset.test)
        accuracy = total.accuracy
        own = {number: _score(engine, share.test) for number, share in enumerate(engine.setup.shares)}
    return {
        "test_accuracy": accuracy,
        "test_loss": total.mean_loss,
        "client_accuracy": {str(c): s.accuracy for c, s in own.items() if s.count},
        "confusion": None if total.confusion is None else total.confusion.tolist(),
        "evaluation_seconds": perf_counter() - start,
    }


def joined_model(engine: LocalEngine) -> dict[str, Tensor]:
    """Return the joined model's ``state_dict``; parts that are personal are averaged, weighted by samples."""
    if engine.personal_parts:
        states = []
        for number, share in enumerate(engine.shares):
            _write(engine, number)
            states.append((len(share.train), {k: t.detach().clone() for k, t in engine.joined.state_dict().items()}))
        return weighted_mean(states)
    _write(engine, None)
    return {k: t.detach().clone() for k, t in engine.joined.state_dict().items()}


def _write(engine: LocalEngine, client: int | None) -> None:
    for name, module in engine.joined.parts.items():
        source = engine.current(name, client)
        with torch.no_grad():
            for key, tensor in module.state_dict(keep_vars=True).items():
                tensor.copy_(source[key])


def _score(engine: LocalEngine, samples: Any) -> Score:
    return score(
        list(engine.joined.parts.values()),
        samples,
        engine.settings.loss,
        engine.setup.dataset.classes,
        batch_size=engine.setup.evaluation_batch,
        device=engine.settings.device,
        prepare=engine.setup.prepare,
        autocast=engine.settings.autocast,
    )
