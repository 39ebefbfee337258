"""What an experiment can choose by name, with the options of each: tables that need no torch.

Whoever may not run what an experiment names, a backend or a command that only sends it, checks names and options here.
Values are checked where the thing is made.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from cutlayer.config import MESSAGES, Experiment
from cutlayer.errors import ConfigError
from cutlayer.models import MODELS
from cutlayer.recipes import Recipe

Options = Mapping[str, Collection[str]]

_LIMITS = ("train_limit", "test_limit", "normalize")
_SPLIT = ("test_fraction", "seed")
_ADAPTIVE = ("lr", "beta1", "beta2", "tau")

AGGREGATORS: dict[str, tuple[str, ...]] = {
    "fedavg": (),
    "fedprox": ("mu",),
    "fedadam": _ADAPTIVE,
    "fedyogi": _ADAPTIVE,
    "median": (),
    "trimmed_mean": ("fraction",),
}

AUXILIARIES: dict[str, tuple[str, ...]] = {"linear": ("pool",), "stages": ("stages", "upto", "pool"), "backbone": ()}

PARTITIONS: dict[str, tuple[str, ...]] = {
    "iid": (),
    "dirichlet": ("alpha", "balanced"),
    "quantity": ("alpha",),
    "shards": ("shards",),
    "natural": (),
}
"""Every partition with its options; all have min_samples too."""

CODECS: dict[str, tuple[str, ...]] = {"fp32": (), "bf16": (), "fp16": (), "int8": (), "topk": ("ratio", "feedback")}

MODEL_OPTIONS: dict[str, tuple[str, ...]] = {
    "mlp": ("hidden", "dropout"),
    "resnet18": ("stem",),
    "resnet20": ("shortcut",),
    "resnet56": ("shortcut",),
    "resnet110": ("shortcut",),
    "vit": ("patch", "width", "depth", "heads", "dropout"),
}
"""The options of those models that have some."""

DATA: dict[str, tuple[str, ...]] = {
    "digits": (*_SPLIT, *_LIMITS),
    "mnist": ("path", *_LIMITS),
    "fashion_mnist": ("path", *_LIMITS),
    "idx": ("path", "name", "class_names", *_LIMITS),
    "cifar10": ("path", *_LIMITS),
    "cifar100": ("path", *_LIMITS),
    "npz": ("path", *_SPLIT, *_LIMITS, "layout", "invert"),
    "csv": ("path", "label", "group", "categorical", "drop", "header", "delimiter", "missing", *_SPLIT, *_LIMITS),
    "heart_disease": ("path", *_SPLIT, "normalize"),
    "hf": ("path", "config", "inputs", "label", "group", "train", "test", *_SPLIT, *_LIMITS),
}

AUGMENTATIONS = ("crop", "padding", "flip", "cutout")
FEEDBACK = (
    "codec for {kind} keeps an error to feed back, which a replica of algorithm {algorithm} cannot; give it feedback: "
    "false"
)
LOSSES = ("cross_entropy", "nll_loss", "multi_margin_loss")


def check(experiment: Experiment) -> None:
    """Raise ConfigError for a name that is in no table, or an option that it does not have.

    What is named ``package.module:function`` may be anything.  Algorithms are `cutlayer.recipes`' to check, optimizers
    torch's.
    """
    _chosen("model", experiment.model, {name: MODEL_OPTIONS.get(name, ()) for name in MODELS}, own="function")
    _chosen("data", experiment.data, DATA, own="function")
    _chosen("partition", experiment.partition, {name: (*its, "min_samples") for name, its in PARTITIONS.items()})
    _chosen("aggregator", experiment.aggregator, AGGREGATORS)
    for key, value in experiment.aggregator.items():
        if key != "name" and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ConfigError(f"aggregator {experiment.aggregator['name']}: {key} must be a number, got {value!r}")
    _chosen("auxiliary", experiment.auxiliary, AUXILIARIES, own="function")
    for spec in codecs(experiment.codec).values():
        _chosen("codec", spec, CODECS, own="Class")
    odd = sorted((experiment.augment or {}).keys() - set(AUGMENTATIONS))
    if odd:
        raise ConfigError(f"augment has no option {odd[0]!r}; it has: {', '.join(AUGMENTATIONS)}")
    if ":" not in experiment.loss and experiment.loss not in LOSSES:
        raise ConfigError(
            f"loss must be one of {', '.join(LOSSES)}, or package.module:function, got {experiment.loss!r}"
        )


def codecs(spec: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the codec of every kind of message, with its options.  Raises ConfigError for a kind that is none."""
    if "name" in spec:
        return dict.fromkeys(MESSAGES, spec)
    unknown = [str(kind) for kind in spec if kind not in MESSAGES]
    if unknown:
        raise ConfigError(f"codec has a name, or codecs for {', '.join(MESSAGES)}, got {', '.join(unknown)}")
    return {k: each if isinstance(each, Mapping) else {"name": each} for k, each in spec.items() if each is not None}


def without_memory(recipe: Recipe) -> tuple[str, ...]:
    """Return the kinds of messages that a split server packs, where any replica may serve any client next."""
    shared = recipe.server == "shared" and recipe.step == "batch" and not recipe.grouped
    if recipe.server == "none" or shared or recipe.asynchronous:
        return ()
    return ("cut_gradients", *(("activations",) if recipe.labels == "client" else ()))


def check_for_services(experiment: Experiment, recipe: Recipe) -> None:
    """Raise ConfigError for what `cutlayer run` can train, and services cannot."""
    if recipe.asynchronous and experiment.clients.join:
        raise ConfigError(
            f"clients.join: in algorithm {recipe.name} all clients take part from the beginning; leave it out"
        )
    for kind in without_memory(recipe):
        spec = codecs(experiment.codec).get(kind, {})
        if spec.get("name") in CODECS and spec.get("feedback"):
            raise ConfigError(FEEDBACK.format(kind=kind, algorithm=recipe.name))


def _chosen(key: str, spec: Mapping[str, Any], table: Options, own: str | None = None) -> None:
    name = spec.get("name")
    if own is not None and isinstance(name, str) and ":" in name:
        return
    if not isinstance(name, str) or name not in table:
        more = f", or package.module:{own}" if own is not None else ""
        raise ConfigError(f"{key} must be one of {', '.join(table)}{more}, got {name!r}")
    for option in spec:
        if option != "name" and option not in table[name]:
            raise ConfigError(f"{key} {name} has no option {option!r}; it has: {', '.join(table[name]) or 'none'}")
