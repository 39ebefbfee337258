"""From names to objects: what is looked up, and what the run folder is told of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import toys

from cutlayer.config import parse
from cutlayer.engines.prepare import find_device, find_loss, prepare, run_name
from cutlayer.errors import ConfigError


def _prepare(**keys: Any) -> Any:
    data = toys.dataset()
    split = toys.cut(toys.made(toys.Skip), ["lower"], data.train)
    return prepare(parse({"algorithm": "vanilla", "clients": 3, **keys}), dataset=data, model=split)


def test_the_pictures_say_what_each_side_holds() -> None:
    prepared = _prepare()
    total = sum(p.numel() for p in toys.made(toys.Skip).parameters())
    parts = {name: part["parameters"] for name, part in prepared.model["parts"].items()}
    assert parts == {"encoder": 6 * 8 + 8 + 8 * 8 + 8, "backbone": total - parts["encoder"]}
    assert prepared.model["cuts"] == ["lower"]
    assert {c["bytes"] for c in prepared.model["crossings"]} == {32.0}
    assert len(prepared.model["crossings"]) == 2
    clients = prepared.partition["clients"]
    assert sum(sum(c["counts"]) + c["test"] for c in clients) == 60
    assert prepared.partition["scheme"] == "dirichlet(alpha=0.5)"


def test_runs_that_share_a_store_have_names_of_their_own() -> None:
    experiment = parse({"out": "runs/some run"})
    names = {run_name(experiment) for _ in range(20)}
    assert len(names) == 20
    assert all(name.startswith("some-run-") for name in names)
    assert _prepare(name="mine").setup.run_name == "mine"


def test_small_models_get_one_thread() -> None:
    assert _prepare().threads == 1
    assert _prepare(threads=3).threads == 3


def test_devices() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("quantum", "meta", "cuda:x"):
        with pytest.raises(ConfigError, match="device must be auto, cpu, cuda or cuda:<n>"):
            find_device(name)


def test_losses_by_name() -> None:
    scores, targets = torch.randn(5, 3), torch.randint(3, (5,))
    for name, function in (
        ("nll_loss", torch.nn.functional.nll_loss),
        ("cross_entropy", torch.nn.functional.cross_entropy),
    ):
        assert torch.equal(find_loss(name)({"logits": scores}, targets), function(scores, targets))
    assert find_loss("torch.nn.functional:cross_entropy") is torch.nn.functional.cross_entropy
    with pytest.raises(ConfigError, match="loss"):
        find_loss("torch.nn.functional:no_such_loss")
