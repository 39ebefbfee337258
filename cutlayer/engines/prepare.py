"""From an experiment to what an engine needs: names are looked up, data is shared out, the model is cut and checked."""

from __future__ import annotations

import copy
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cutlayer import data as datasets
from cutlayer import models, optimizers, recipes, step
from cutlayer.codecs import parse
from cutlayer.config import Experiment
from cutlayer.cutting import SplitModel, as_tuple, split
from cutlayer.data import Augment, Dataset
from cutlayer.engines.clock import paces
from cutlayer.engines.setup import Setup
from cutlayer.errors import ConfigError, DataError
from cutlayer.models import auxiliary
from cutlayer.recipes import Recipe
from cutlayer.roles.aggregators import aggregator
from cutlayer.roles.assembly import Blueprint
from cutlayer.roles.settings import Settings
from cutlayer.store import open_store
from cutlayer.targets import load_target

EXAMPLE = 4
"""Samples in the batch on which a cut is verified."""


@dataclass(frozen=True)
class Outline:
    """What a party must know of the data to build the model: a few samples, real or made up, and the classes.

    ``inputs`` are what the model is called with, ``shape`` is that of one sample's first input.  Without ``targets``,
    class 0 stands for every score that is given.
    """

    inputs: tuple[Any, ...]
    targets: Tensor | None
    shape: tuple[int, ...]
    classes: int
    name: str = "data"


@dataclass(frozen=True)
class Prepared:
    """An experiment ready to run, and the pictures of it that the run folder keeps."""

    setup: Setup
    settings: Settings
    partition: Mapping[str, Any]
    model: Mapping[str, Any]
    threads: int


def prepare(
    experiment: Experiment,
    *,
    dataset: Dataset | None = None,
    model: nn.Module | SplitModel | None = None,
    recipe: Recipe | None = None,
    aux: nn.Module | None = None,
    loss: step.Loss | None = None,
) -> Prepared:
    """Return ``experiment`` ready to run; objects that are given stand in for what the experiment names.

    Raises ConfigError, DataError or CutError before anything is trained.
    """
    recipe = recipe or recipes.get(experiment.algorithm)
    check_names(experiment)
    loss = loss or find_loss(experiment.loss)
    dataset = datasets.check(dataset) if dataset is not None else load_dataset(experiment.data)
    outline = outline_of(dataset, experiment)
    cut = _cut(experiment, recipe, model, outline)
    h = _crossing(cut, outline, loss)
    shares, partition = make_shares(experiment, dataset)
    found = _blueprint(experiment, recipe, cut, outline, h, aux, loss)
    store = open_store(experiment.store) if recipe.durable and experiment.store else None
    setup = Setup(
        **{f.name: getattr(found, f.name) for f in fields(found)},
        dataset=dataset,
        shares=shares,
        store=store,
        run_name=experiment.name or run_name(experiment),
        encoded=bool(experiment.engine.get("encoded", False)),
        paces=paces(experiment.clients.pace, len(shares), experiment.seed),
    )
    threads = find_threads(cut, outline.inputs, experiment.batch_size) if experiment.threads == "auto" else None
    return Prepared(
        setup,
        make_settings(experiment, recipe, cut, loss),
        partition,
        describe(cut),
        threads or int(experiment.threads),
    )


def blueprint(experiment: Experiment, outline: Outline) -> tuple[Blueprint, Settings, int]:
    """Return what a party without the run's data builds from the experiment: blueprint, settings and threads.

    Raises ConfigError, DataError or CutError.
    """
    recipe = recipes.get(experiment.algorithm)
    check_names(experiment)
    loss = find_loss(experiment.loss)
    cut = _cut(experiment, recipe, None, outline)
    found = _blueprint(experiment, recipe, cut, outline, _crossing(cut, outline, loss), None, loss)
    threads = find_threads(cut, outline.inputs, experiment.batch_size) if experiment.threads == "auto" else None
    return found, make_settings(experiment, recipe, cut, loss), threads or int(experiment.threads)


def check_names(experiment: Experiment) -> None:
    """Look up what can be looked up at once: optimizers, aggregator, codec."""
    for role in ("client", "server", "auxiliary"):
        optimizers.check(getattr(experiment.optimizer, role), experiment.rounds)
    aggregator(experiment.aggregator)
    parse(experiment.codec)


def _blueprint(
    experiment: Experiment,
    recipe: Recipe,
    cut: SplitModel,
    outline: Outline,
    h: Any,
    aux: nn.Module | None,
    loss: step.Loss,
) -> Blueprint:
    augment = _augment(experiment)
    _check_rows(recipe, cut)
    _check_asynchronous(experiment, recipe)
    if not any(p.requires_grad for p in cut.parameters()):
        raise ConfigError("model has no parameter that takes a gradient; leave at least one requires_grad=True")
    if recipe.local_loss and aux is None:
        options = dict(experiment.auxiliary)
        aux = auxiliary.derive(
            options.pop("name"), cut.parts["backbone"], h, outline.classes, seed=experiment.seed, **options
        )
    if recipe.local_loss and aux is not None:
        _check_auxiliary(aux, h, outline, loss)
    return Blueprint(
        split=cut,
        optimizers={r: getattr(experiment.optimizer, r) for r in ("client", "server", "auxiliary")},
        auxiliary=aux,
        codec=experiment.codec,
        aggregator=experiment.aggregator,
        update=experiment.update.model_dump(),
        fraction=experiment.clients.fraction,
        clip=experiment.clip,
        augment=_batchwise(augment) if augment else None,
        prepare=_centred(augment) if augment else None,
        evaluation_batch=experiment.evaluate.batch_size,
    )


def make_settings(experiment: Experiment, recipe: Recipe, cut: SplitModel, loss: step.Loss) -> Settings:
    """Return what every role of the run agrees on."""
    return Settings(
        recipe=recipe,
        parts=tuple(cut.parts),
        seed=experiment.seed,
        batch_size=experiment.batch_size,
        local_epochs=experiment.local_epochs,
        loss=loss,
        autocast=torch.bfloat16 if experiment.precision == "bf16" else None,
        device=find_device(experiment.device),
        proximal=float(experiment.aggregator.get("mu", 0.01)) if experiment.aggregator["name"] == "fedprox" else 0.0,
    )


def run_name(experiment: Experiment) -> str:
    """Return a new name for a run in the store: no two runs share one, though they may share the store."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(experiment.out).name if experiment.out else "").strip("-") or "run"
    return f"{stem}-{secrets.token_hex(4)}"


def find_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` is CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:<n>, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name} was asked for, but this machine's torch sees no CUDA; use device=cpu")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:<n>, got {name!r}")
    return device


SMALL = 100e6
"""FLOPs of a batch's forward below which handing work to a second thread costs more than it brings."""


def find_threads(cut: SplitModel, example: tuple[Any, ...], batch_size: int) -> int:
    """Return how many threads serve the model best: one for a small one, else as many as torch has."""
    twin = cut.copy().eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        twin(*example)
    rows = next((len(v) for v in example if isinstance(v, Tensor) and v.ndim), 1)
    return 1 if counter.get_total_flops() / rows * batch_size < SMALL else torch.get_num_threads()


def find_loss(name: str) -> step.Loss:
    """Return the loss called ``name``: of ``torch.nn.functional``, or ``package.module:function(output, targets)``."""
    if name == "cross_entropy":
        return step.cross_entropy
    if ":" in name:
        return load_target(name, "loss")
    function = getattr(nn.functional, name, None)
    if name not in ("nll_loss", "multi_margin_loss"):
        raise ConfigError(
            f"loss must be cross_entropy, nll_loss, multi_margin_loss or package.module:function, got {name!r}"
        )
    assert function is not None
    return lambda output, targets: function(step.logits(output), targets)


def describe(cut: SplitModel) -> dict[str, Any]:
    """Return what each side holds and what crosses, as JSON."""
    return {
        "method": cut.method,
        "cuts": list(cut.cuts),
        "parts": {name: {"parameters": sum(p.numel() for p in m.parameters())} for name, m in cut.parts.items()},
        "crossings": [
            {"cut": c.cut, "name": c.name, "shape": list(c.shape), "dtype": c.dtype, "bytes": c.bytes_per_sample}
            for c in cut.crossings
        ],
    }


def load_dataset(spec: Mapping[str, Any]) -> Dataset:
    """Return the data set that ``spec`` (``name`` and options) describes."""
    options = dict(spec)
    return datasets.load(options.pop("name"), **options)


def _augment(experiment: Experiment) -> Augment | None:
    if experiment.augment is None:
        return None
    try:
        return Augment(**experiment.augment)
    except TypeError:
        raise ConfigError(
            f"augment has the options crop, padding, flip and cutout, got {', '.join(experiment.augment)}"
        ) from None


def _batchwise(augment: Augment) -> Any:
    return lambda inputs, generator: (augment(inputs[0], generator), *inputs[1:])


def _centred(augment: Augment) -> Any:
    return lambda inputs: (augment.evaluate(inputs[0]), *inputs[1:])


def outline_of(dataset: Dataset, experiment: Experiment) -> Outline:
    """Return the outline of a data set, as the model will see it."""
    augment = _augment(experiment)
    inputs, targets = dataset.train.take(torch.arange(min(EXAMPLE, len(dataset.train))))
    shape = dataset.input_shape
    if augment is not None:
        inputs, shape = _centred(augment)(inputs), augment.output_shape(dataset.input_shape)
    return Outline(inputs, targets, shape, dataset.classes, dataset.name)


def _cut(
    experiment: Experiment,
    recipe: Recipe,
    model: nn.Module | SplitModel | None,
    outline: Outline,
) -> SplitModel:
    needed = 2 if recipe.labels == "client" and not recipe.whole else 1
    if isinstance(model, SplitModel):
        if recipe.labels == "client" and model.head is None:
            raise ConfigError(f"algorithm {recipe.name} is U-shaped and needs two cuts, got {', '.join(model.cuts)}")
        if not recipe.whole and needed == 1 and model.head is not None:
            raise ConfigError(f"algorithm {recipe.name} has labels at the server and needs one cut, got two")
        if experiment.cuts not in (None, model.cuts):
            raise ConfigError(
                f"cuts={', '.join(experiment.cuts or ())} came with a model that is cut after {', '.join(model.cuts)}; "
                "leave one of them out"
            )
        model.verify(outline.inputs)
        return model.copy()
    options = dict(experiment.model)
    name = options.pop("name")
    if model is None:
        model = models.build(name, classes=outline.classes, input_shape=outline.shape, seed=experiment.seed, **options)
    cuts = experiment.cuts
    if cuts is None:
        known = models.DEFAULT_CUTS.get(name)
        if known is None:
            children = ", ".join(n for n, _ in model.named_children())
            raise ConfigError(f"model {name} has no default cut: give cuts=<submodule>; it has: {children}")
        cuts = tuple(known["two" if needed == 2 else "one"])
    if not recipe.whole and len(cuts) != needed:
        kind = "is U-shaped and needs two cuts" if needed == 2 else "has labels at the server and needs one cut"
        raise ConfigError(f"algorithm {recipe.name} {kind}, got {', '.join(cuts)}")
    return split(model, list(cuts), outline.inputs)


def _crossing(cut: SplitModel, outline: Outline, loss: step.Loss) -> Any:
    """Return what crosses the first cut on the samples; check that scores, classes and loss fit each other."""
    twin = cut.copy().eval()
    with torch.no_grad():
        h = twin.encoder(*outline.inputs)
        output = h
        for part in list(twin.parts.values())[1:]:
            output = part(*as_tuple(output))
    scores = step.logits(output)
    if not isinstance(scores, Tensor) or scores.ndim < 2 or scores.shape[-1] < outline.classes:
        got = tuple(scores.shape[1:])
        raise DataError(
            f"data {outline.name} has {outline.classes} classes, and the model gives {got} scores a sample; build the "
            f"model with {outline.classes} outputs"
        )
    _check_loss(loss, output, _targets(outline, scores), "one that takes the model's output and the data's targets")
    return h


def _targets(outline: Outline, scores: Tensor) -> Tensor:
    return outline.targets if outline.targets is not None else scores.new_zeros(scores.shape[:-1], dtype=torch.int64)


def _check_auxiliary(aux: nn.Module, h: Any, outline: Outline, loss: step.Loss) -> None:
    try:
        with torch.no_grad():
            output = copy.deepcopy(aux).eval()(*as_tuple(h))
    except Exception as error:
        raise ConfigError(
            f"auxiliary fails on what crosses the cut ({type(error).__name__}: {error}); give a model that takes it"
        ) from error
    scores = step.logits(output)
    if scores.shape[-1] < outline.classes:
        raise ConfigError(
            f"auxiliary gives {scores.shape[-1]} scores a sample, and there are {outline.classes} classes"
        )
    _check_loss(
        loss,
        output,
        _targets(outline, scores),
        "auxiliary=backbone, or a model of your own that scores what has a label",
    )


def _check_loss(loss: step.Loss, output: Any, targets: Tensor, instead: str) -> None:
    try:
        with torch.no_grad():
            value = loss(output, targets)
    except Exception as error:
        raise ConfigError(
            f"loss fails on scores of shape {tuple(step.logits(output).shape)} and targets of shape "
            f"{tuple(targets.shape)} ({type(error).__name__}: {error}); give {instead}"
        ) from error
    if not isinstance(value, Tensor) or value.ndim:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ConfigError(f"loss must return the mean over the batch, a tensor without dimensions, got {got}")


def _check_asynchronous(experiment: Experiment, recipe: Recipe) -> None:
    """Refuse an aggregator that needs all updates of a round where they are mixed in one by one."""
    rule = experiment.aggregator["name"]
    if recipe.asynchronous and rule != "fedavg":
        raise ConfigError(
            f"algorithm {recipe.name} mixes updates in one by one, and aggregator {rule} needs those of a round; "
            "leave it out (mixing, staleness and staleness_power are options of the algorithm)"
        )


def _check_rows(recipe: Recipe, cut: SplitModel) -> None:
    """Refuse a recipe that takes batches apart or joins them where a value at the first cut is no row a sample."""
    if not (recipe.grouped or recipe.feedback == "estimated"):
        return
    for crossing in cut.crossings:
        if crossing.cut == cut.cuts[0] and crossing.batch_dim not in (0, None):
            raise ConfigError(
                f"algorithm {recipe.name} handles activations sample by sample, and {crossing.name!r} at the cut after "
                f"{crossing.cut} has its samples in dim {crossing.batch_dim}, not 0; choose another cut or algorithm"
            )


def make_shares(experiment: Experiment, dataset: Dataset) -> tuple[list[datasets.Share], dict[str, Any]]:
    """Return what every client trains and tests on, and the picture of the partition.  Raises DataError."""
    options = dict(experiment.partition)
    scheme = options.pop("name")
    count = experiment.clients.count
    parts = datasets.partition(dataset, count, scheme, experiment.seed, **options)
    shares = datasets.client_splits(
        dataset, parts, fraction=experiment.clients.test_fraction, seed=experiment.seed, by_group=scheme == "natural"
    )
    counts = datasets.counts(dataset.train.targets, [s.train.index for s in shares], dataset.classes)
    chosen = ", ".join(f"{k}={v}" for k, v in options.items())
    names = dataset.group_names if scheme == "natural" and len(dataset.group_names) == count else ()
    return shares, {
        "scheme": f"{scheme}({chosen})" if chosen else scheme,
        "classes": list(dataset.class_names),
        "clients": [
            {"name": names[i] if names else str(i), "counts": row.tolist(), "test": len(share.test)}
            for i, (row, share) in enumerate(zip(counts, shares, strict=True))
        ],
    }
