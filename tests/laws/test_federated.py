"""Many clients: split federated training is federated training, and a relay is one client's training."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import cutlayer as cl
from cutlayer.data import Subset
from cutlayer.data import partition as share_out
from cutlayer.recipes import RECIPES, get
from cutlayer.roles.settings import Settings

CLIENTS = 4
QUANTITY = {"name": "quantity", "alpha": 1.0, "min_samples": 3}
SGD: dict[str, Any] = {"name": "sgd", "lr": 0.05}
MODELS = {
    "dense": (toys.Dense, ("drop1",), (6,)),
    "conv": (toys.Conv, ("norm1",), (1, 7, 7)),
    "skip": (toys.Skip, ("lower",), (6,)),
}


def _case(name: str, seed: int = 0) -> tuple[cl.SplitModel, cl.Dataset, nn.Module]:
    kind, cuts, shape = MODELS[name]
    data = toys.dataset(toys.rows(70, seed, shape), toys.rows(20, seed + 1, shape))
    return toys.cut(toys.made(kind, seed), list(cuts), data.train), data, toys.made(kind, seed)


def _run(recipe: Any, split: cl.SplitModel, data: cl.Dataset, **keys: Any) -> cl.Result:
    options: dict[str, Any] = {
        "clients": {"count": CLIENTS, "test_fraction": 0},
        "partition": QUANTITY,
        "rounds": 5,
        "batch_size": 8,
        "optimizer": SGD,
    }
    return cl.run(recipe, split, data, **(options | keys))


def _shares(data: cl.Dataset, seed: int) -> dict[int, Subset]:
    parts = share_out(data, CLIENTS, "quantity", seed, alpha=1.0, min_samples=3)
    assert len({len(p) for p in parts}) > 1, "the law is about uneven clients"
    return {number: Subset(data.train, part) for number, part in enumerate(parts)}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "keys", [{}, {"local_epochs": 2, "rounds": 3}, {"clients": {"count": 4, "fraction": 0.5, "test_fraction": 0}}]
)
def test_splitfed_v1_is_fedavg(name: str, keys: dict[str, Any]) -> None:
    split, data, _ = _case(name)
    left = _run("splitfed_v1", split, data, **keys)
    right = _run("fedavg", split, data, **keys)
    assert toys.apart(left.model, right.model) <= 1e-6
    assert [m["loss"] for m in left.metrics] == pytest.approx([m["loss"] for m in right.metrics], rel=1e-6)


@settings(max_examples=6, deadline=None)
@given(
    name=st.sampled_from(list(MODELS)),
    seed=st.integers(0, 1000),
    batch_size=st.integers(2, 20),
    optimizer=st.sampled_from([SGD, {**SGD, "momentum": 0.9}, {"name": "adam", "lr": 0.003}]),
)
def test_splitfed_v1_is_fedavg_with_any_seed_and_optimizer(
    name: str, seed: int, batch_size: int, optimizer: Any
) -> None:
    split, data, _ = _case(name, seed)
    keys = {"seed": seed, "batch_size": batch_size, "optimizer": optimizer, "rounds": 3}
    assert toys.apart(_run("splitfed_v1", split, data, **keys).model, _run("fedavg", split, data, **keys).model) <= 1e-6


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fedavg_is_a_plain_loop_over_uncut_models(name: str, momentum: float) -> None:
    """Every client has its own copy of all layers and its own optimizer that lives on; averages are n_i/N."""
    split, data, model = _case(name)
    agreed = Settings(RECIPES["fedavg"], ("encoder", "backbone"), 0, 8, 1)
    shares = _shares(data, 0)
    models = {i: copy.deepcopy(model) for i in shares}
    steps = {i: torch.optim.SGD(m.parameters(), lr=0.05, momentum=momentum) for i, m in models.items()}
    total = sum(len(s) for s in shares.values())
    for number in range(1, 5):
        for i, samples in shares.items():
            toys.train_uncut(models[i], MODELS[name][1], {i: samples}, agreed, steps[i], [number])
        mean = _mean({i: (len(shares[i]) / total, m.state_dict()) for i, m in models.items()})
        for m in models.values():
            m.load_state_dict(mean)

    found = _run("fedavg", split, data, rounds=4, optimizer={**SGD, "momentum": momentum})

    assert toys.apart(mean, found.model) <= 1e-6
    for key, value in mean.items():
        assert value.is_floating_point() or torch.equal(value, found.model[key])


def _mean(weighted: dict[int, tuple[float, dict[str, Tensor]]]) -> dict[str, Tensor]:
    (_, first), *_ = weighted.values()
    found = {}
    for key, tensor in first.items():
        mean = sum(share * state[key].double() for share, state in weighted.values())
        assert isinstance(mean, Tensor)
        found[key] = (mean if tensor.is_floating_point() else mean.round()).to(tensor.dtype)
    return found


@pytest.mark.parametrize("recipe", ["vanilla", "ushaped"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("optimizer", [{"name": "sgd", "lr": 0.05, "momentum": 0.9}, {"name": "adam", "lr": 0.01}])
def test_a_relay_is_the_same_batches_in_sequence_at_one_client(recipe: str, name: str, optimizer: Any) -> None:
    """Weights *and* optimizer state are handed on, so that m clients make the very steps of one."""
    _, data, model = _case(name)
    cuts = [*MODELS[name][1], {"dense": "drop2", "conv": "drop2", "skip": "middle"}[name]][: 1 + (recipe == "ushaped")]
    split = toys.cut(toys.made(MODELS[name][0]), cuts, data.train)
    agreed = Settings(RECIPES[recipe], ("encoder", "backbone", "head"), 0, 8, 1)
    options = {k: v for k, v in optimizer.items() if k != "name"}
    steps = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer["name"]](model.parameters(), **options)
    losses = toys.train_uncut(model, cuts, _shares(data, 0), agreed, steps, range(1, 4))

    found = _run(recipe, split, data, rounds=3, optimizer=optimizer)

    assert toys.same(found.model, dict(model.state_dict()))
    assert [m["loss"] for m in found.metrics] == pytest.approx(losses, rel=1e-6)


def test_splitfed_v1_is_fedavg_with_a_proximal_term_too() -> None:
    """FedProx holds back the server's copy of the backbone as it holds back the client's parts."""
    split, data, _ = _case("skip")
    left, right = (
        _run(a, split, data, aggregator={"name": "fedprox", "mu": 1.0}, local_epochs=2).model
        for a in ("splitfed_v1", "fedavg")
    )
    assert toys.apart(left, right) <= 1e-6
    assert toys.apart(right, _run("fedavg", split, data, local_epochs=2).model) > 1e-3


@pytest.mark.parametrize("recipe", ["vanilla", "ushaped"])
def test_the_schedule_of_a_relay_goes_by_rounds_whoever_takes_part(recipe: str) -> None:
    """Who hands weights on may have rested for rounds; its learning rate is not handed on with them."""
    _, data, _ = _case("skip")
    cuts = ["lower", "middle"][: 1 + (recipe == "ushaped")]
    optimizer = {**SGD, "schedule": {"name": "ExponentialLR", "gamma": 0.5}}
    engine = toys.engine(
        recipe, toys.cut(toys.made(toys.Skip), cuts, data.train), data,
        clients={"count": 5, "fraction": 0.4, "test_fraction": 0}, partition="iid", optimizer=optimizer,
    )  # fmt: skip
    for number in range(6):
        engine.round()
        rates = [p.optimizer.param_groups[0]["lr"] for p in engine.clients[engine.holder].parts.values()]
        assert rates == pytest.approx([SGD["lr"] * 0.5**number] * len(rates))


@pytest.mark.parametrize("recipe", ["cse_fsl", "fsl_sage"])
def test_every_qth_batch_is_counted_over_the_local_epochs(recipe: str) -> None:
    """Four epochs of three batches are twelve steps: steps 0, 5 and 10 are uploaded, not the first of every epoch."""
    _, data, _ = _case("skip")
    spec = {"name": recipe, "upload_every": 5}
    split = toys.cut(toys.made(toys.Skip), ["lower"], data.train)
    keys = {"clients": {"count": 1, "test_fraction": 0}, "partition": "iid", "batch_size": 24, "local_epochs": 4}
    engine = toys.engine(get(spec), split, data, **keys)
    engine.round()
    assert engine.server is not None
    assert engine.server.version(0) == 3, "the backbone steps on every upload"


@pytest.mark.parametrize("recipe", ["splitfed_v1", "splitfed_v2", "splitfed_u", "fedavg", "sglr", "cse_fsl"])
def test_per_client_optimizer_state_survives_the_rounds(recipe: str) -> None:
    """Two rounds of one batch move as far as momentum says, which a fresh optimizer each round could not."""
    _, data, _ = _case("skip")
    cuts = ["lower", "middle"][: 1 + (RECIPES[recipe].labels == "client")]
    split = toys.cut(toys.made(toys.Skip), cuts, data.train)
    light: dict[str, Any] = {"name": "sgd", "lr": 0.01}
    heavy = {**light, "client": {"momentum": 0.9}}
    one_batch = {"batch_size": 500, "partition": "iid"}
    start = split.state_dict()

    def moved(optimizer: Any, rounds: int) -> float:
        model = _run(recipe, split, data, rounds=rounds, optimizer=optimizer, **one_batch).model
        return float((model["stem.weight"] - start["stem.weight"]).norm())

    assert moved(heavy, 1) == moved(light, 1), "momentum shows from the second step on"
    assert moved(heavy, 4) > 1.5 * moved(light, 4)


def test_more_clients_do_not_make_larger_steps() -> None:
    """A mean over samples, not a sum over batches: the same data in more hands moves the backbone as far."""
    _, data, _ = _case("skip")
    split = toys.cut(toys.made(toys.Skip), ["lower", "middle"], data.train)
    start = split.state_dict()
    lengths = []
    for count in (1, 2, 7):
        keys = {"clients": {"count": count, "test_fraction": 0}, "partition": "iid", "batch_size": 500, "rounds": 1}
        model = _run("splitfed_u", split, data, update="round", **keys).model
        lengths.append(float((model["middle.2.weight"] - start["middle.2.weight"]).norm()))
    assert lengths[1:] == pytest.approx([lengths[0]] * 2, rel=0.35)
