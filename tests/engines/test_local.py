"""The local engine's metrics and models: what they are means of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import toys

import cutlayer as cl
from cutlayer.engines import scoring
from cutlayer.engines.local import LocalEngine
from cutlayer.recipes import RECIPES
from cutlayer.roles.aggregators import weighted_mean


def _engine(recipe: str, **keys: Any) -> LocalEngine:
    data = toys.dataset()
    split = toys.cut(toys.made(toys.Dense), ["drop1", "drop2"][: 1 + (RECIPES[recipe].labels == "client")], data.train)
    options: dict[str, Any] = {"clients": 3, "batch_size": 8, "partition": {"name": "quantity", "alpha": 1.0}}
    return toys.engine(recipe, split, data, **(options | keys))


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_loss_is_the_mean_over_all_samples(recipe: str) -> None:
    found = _engine(recipe).round()
    weighted = sum(found["client_loss"][c] * n for c, n in found["client_samples"].items())
    assert found["loss"] == pytest.approx(weighted / found["samples"])
    assert found["samples"] == sum(found["client_samples"].values())
    assert sum(found["time"].values()) == pytest.approx(found["seconds"], rel=0.01)
    assert all(v >= 0 for v in found["time"].values())


@pytest.mark.parametrize("recipe", RECIPES)
def test_looking_does_not_change_what_is_looked_at(recipe: str) -> None:
    """Evaluation between rounds moves no statistic, no weight and no random stream."""
    watched, alone = _engine(recipe), _engine(recipe)
    for _ in range(2):
        watched.round()
        scoring.evaluate(watched)
        scoring.joined_model(watched)
        alone.round()
    assert toys.same(scoring.joined_model(watched), scoring.joined_model(alone))


@pytest.mark.parametrize("recipe", ["psl", "local", "splitfed_v3", "sglr"])
def test_personal_models_are_scored_one_by_one_and_joined_by_samples(recipe: str) -> None:
    engine = _engine(recipe)
    engine.round()
    test = engine.setup.dataset.test
    inputs, targets = test.take(torch.arange(len(test)))
    accuracies, states, sizes = [], [], [len(s.train) for s in engine.shares]
    for number in range(3):
        model = toys.made(toys.Dense)
        model.load_state_dict({k: v for name in engine.settings.parts for k, v in engine.current(name, number).items()})
        model.eval()
        accuracies.append(float((model(*inputs).argmax(-1) == targets).float().mean()))
        states.append({k: v.detach().clone() for k, v in model.state_dict().items()})
    assert not toys.same(states[0], states[1])
    expected = sum(a * n for a, n in zip(accuracies, sizes, strict=True)) / sum(sizes)
    assert scoring.evaluate(engine)["test_accuracy"] == pytest.approx(expected, rel=1e-5)
    assert toys.same(scoring.joined_model(engine), weighted_mean(zip(sizes, states, strict=True)))


def test_every_client_is_scored_on_its_own_test_split() -> None:
    engine = _engine("splitfed_v2", clients={"count": 3, "test_fraction": 0.4})
    engine.round()
    found = scoring.evaluate(engine)
    model = toys.made(toys.Dense)
    model.load_state_dict(scoring.joined_model(engine))
    model.eval()
    for number, share in enumerate(engine.setup.shares):
        inputs, targets = share.test.take(torch.arange(len(share.test)))
        accuracy = float((model(*inputs).argmax(-1) == targets).float().mean())
        assert found["client_accuracy"][str(number)] == pytest.approx(accuracy)


def test_clients_that_never_took_part_have_the_first_weights() -> None:
    engine = _engine("psl", clients={"count": 10, "fraction": 0.2, "test_fraction": 0}, partition="iid")
    engine.round()
    absent = next(n for n in range(10) if n not in engine.clients)
    first = toys.made(toys.Dense).state_dict()
    assert torch.equal(engine.current("encoder", absent)["fc1.weight"], first["fc1.weight"])
    assert scoring.evaluate(engine)["test_accuracy"] is not None


def test_absent_clients_hold_no_memory() -> None:
    engine = _engine("fedavg", clients={"count": 20, "fraction": 0.1, "test_fraction": 0}, partition="iid")
    engine.round()
    assert len(engine.clients) == 2


def test_the_backbone_of_a_shared_server_sees_every_client() -> None:
    """With the learning rate of the clients at zero only the backbone moves; with the server's at zero only they do."""
    data = toys.dataset()
    split = toys.cut(toys.made(toys.Plain), ["relu1"], data.train)
    start = split.state_dict()
    for role, still, moving in (("client", "fc1.weight", "fc2.weight"), ("server", "fc2.weight", "fc1.weight")):
        optimizer = {"name": "sgd", "lr": 0.1, role: {"lr": 0.0}}
        model = cl.run("splitfed_v2", split, data, optimizer=optimizer, clients=3, rounds=1, batch_size=8).model
        assert torch.equal(model[still], start[still])
        assert not torch.equal(model[moving], start[moving])
