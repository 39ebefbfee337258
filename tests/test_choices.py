"""The tables of names and options say what there is, and what is in none of them is refused before anything runs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import pytest

from cutlayer import choices
from cutlayer.codecs import CODECS
from cutlayer.config import load
from cutlayer.data import SCHEMES, SOURCES, Augment
from cutlayer.engines.prepare import find_loss
from cutlayer.errors import ConfigError
from cutlayer.models import MODELS
from cutlayer.models.auxiliary import KINDS
from cutlayer.roles.aggregators import AGGREGATORS


def options(target: Any) -> tuple[str, ...]:
    if isinstance(target, str):
        module, _, name = target.partition(":")
        target = getattr(import_module(module), name)
    return tuple(name for name in inspect.signature(target).parameters if name not in ("classes", "input_shape"))


def sets(table: Mapping[str, Any]) -> dict[str, set[str]]:
    return {name: set(its) for name, its in table.items()}


def test_the_tables_are_those_of_what_is_made() -> None:
    assert sets(choices.AGGREGATORS) == sets({name: rule.options for name, rule in AGGREGATORS.items()})
    assert sets(choices.AUXILIARIES) == sets(KINDS)
    assert sets(choices.PARTITIONS) == sets(SCHEMES)
    assert sets(choices.CODECS) == sets({name: options(make) for name, make in CODECS.items()})
    assert sets(choices.DATA) == sets({name: options(target) for name, target in SOURCES.items()})
    found = {name: options(target) for name, target in MODELS.items()}
    assert sets(choices.MODEL_OPTIONS) == sets({name: its for name, its in found.items() if its})
    assert options(Augment) == choices.AUGMENTATIONS
    for name in choices.LOSSES:
        assert callable(find_loss(name))


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"model": "mlpp"}, "model must be one of mlp, .* or package.module:function, got 'mlpp'"),
        ({"model": {"name": "mlp", "width": 3}}, "model mlp has no option 'width'; it has: hidden, dropout"),
        ({"data": "digitz"}, "data must be one of digits, .*, got 'digitz'"),
        ({"data": {"name": "cifar10", "seed": 1}}, "data cifar10 has no option 'seed'"),
        ({"partition": "even"}, "partition must be one of iid, "),
        ({"aggregator": "fedsum"}, "aggregator must be one of fedavg, .*, got 'fedsum'"),
        ({"aggregator": "mine:rule"}, "aggregator must be one of"),
        ({"aggregator": {"name": "median", "lr": 1}}, "aggregator median has no option 'lr'; it has: none"),
        ({"aggregator": {"name": "fedprox", "mu": "big"}}, "aggregator fedprox: mu must be a number, got 'big'"),
        ({"auxiliary": {"name": "linear", "depth": 2}}, "auxiliary linear has no option 'depth'"),
        ({"codec": "gzip"}, "codec must be one of fp32, .*, or package.module:Class, got 'gzip'"),
        ({"codec": {"activations": "int9"}}, "codec must be one of .*'int9'"),
        ({"codec": {"updates": {"name": "topk", "k": 3}}}, "codec topk has no option 'k'"),
        ({"codec": {"activation": "int8"}}, "codec has a name, or codecs for activations, .*, got activation"),
        ({"augment": {"colour": 3}}, "augment has no option 'colour'"),
        ({"loss": "hinge"}, "loss must be one of cross_entropy"),
    ],
    ids=str,
)
def test_what_is_in_no_table_is_refused(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        choices.check(load(None, (), **keys))


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"model": {"name": "mine:model", "any": 1}, "data": "mine:data", "loss": "mine:loss", "codec": "mine:Codec"},
        {"partition": {"name": "iid", "min_samples": 3}, "codec": {"activations": "int8", "updates": None}},
        {"augment": {"crop": 4}, "auxiliary": {"name": "stages", "stages": 2}},
    ],
    ids=str,
)
def test_what_is_there_or_ones_own_is_taken(keys: dict[str, Any]) -> None:
    choices.check(load(None, (), **keys))
