"""The Python interface: the same experiment as the command line's, with objects in place of names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from torch import nn

from cutlayer.config import Experiment, parse
from cutlayer.cutting import SplitModel
from cutlayer.data import Dataset
from cutlayer.engines.folder import CONFIG, SUMMARY, RunFolder
from cutlayer.engines.prepare import prepare
from cutlayer.engines.running import Observer, Result, execute
from cutlayer.errors import ConfigError, RunFolderError
from cutlayer.recipes import RECIPES, Recipe, get
from cutlayer.step import Loss

GIVEN = "(given in Python)"


def run(
    algorithm: str | Mapping[str, Any] | Recipe,
    model: SplitModel | nn.Module | str | Mapping[str, Any],
    data: Dataset | str | Mapping[str, Any],
    *,
    auxiliary: nn.Module | str | Mapping[str, Any] | None = None,
    loss: Loss | str | None = None,
    observer: Observer | None = None,
    **keys: Any,
) -> Result:
    """Train ``model`` on ``data`` with ``algorithm`` and return the :class:`Result`.

    ``model`` is a SplitModel, an uncut module with ``cuts=[...]``, or what an experiment file names; ``data`` a Dataset
    or what a file names; ``loss`` a function of (output, targets) or what a file names.  ``keys`` are the other keys of
    an experiment.  Nothing is written unless ``out`` is given.  The model that was given stays as it was: the trained
    weights are in ``Result.model``.

    Raises CutlayerError (ConfigError, DataError, CutError, TrainingError, ...) with what to do.
    """
    tree: dict[str, Any] = dict(keys)
    recipe = get(algorithm)
    tree["algorithm"] = _recorded(recipe) if isinstance(algorithm, Recipe) else algorithm
    if isinstance(model, SplitModel) and "cuts" not in tree:
        tree["cuts"] = list(model.cuts)
    tree["model"] = {"name": GIVEN} if isinstance(model, nn.Module | SplitModel) else model
    tree["data"] = {"name": GIVEN} if isinstance(data, Dataset) else data
    if auxiliary is not None:
        tree["auxiliary"] = {"name": GIVEN} if isinstance(auxiliary, nn.Module) else auxiliary
    if loss is not None:
        tree["loss"] = GIVEN if callable(loss) else loss
    experiment = parse(tree)
    objects = {
        "dataset": data if isinstance(data, Dataset) else None,
        "model": model if isinstance(model, nn.Module | SplitModel) else None,
        "recipe": recipe,
        "aux": auxiliary if isinstance(auxiliary, nn.Module) else None,
        "loss": loss if callable(loss) else None,
    }
    return run_experiment(experiment, observer, **objects)


def _recorded(recipe: Recipe) -> dict[str, Any]:
    """Return how a run folder names ``recipe``: with the axes in which it differs from the table, for a resume."""
    known = RECIPES.get(recipe.name)
    if known is None:
        return {"name": recipe.name}
    axes = [f.name for f in fields(Recipe) if f.name not in ("source", "summary")]
    changed = {axis: getattr(recipe, axis) for axis in axes if getattr(recipe, axis) != getattr(known, axis)}
    if any(callable(value) for value in changed.values()):
        raise ConfigError(
            f"algorithm {recipe.name} is in the table already; give one with a function of yours another name"
        )
    return {"name": recipe.name, **changed}


def run_experiment(experiment: Experiment, observer: Observer | None = None, **objects: Any) -> Result:
    """Run one experiment, for each of its seeds, and write plots and report where there is a folder."""
    if experiment.seeds > 1:
        return _run_seeds(experiment, observer, objects)
    prepared = prepare(experiment, **objects)
    experiment = experiment.model_copy(update={"threads": prepared.threads, "name": prepared.setup.run_name})
    folder = RunFolder.create(Path(experiment.out), experiment) if experiment.out else None
    result = execute(experiment, prepared, folder, observer)
    _illustrate(folder)
    return result


def resume(path: str | Path, observer: Observer | None = None, *, rounds: int | None = None, **objects: Any) -> Result:
    """Go on with the run at ``path`` from its newest checkpoint, to the same bits as if it had never stopped.

    A finished run is returned as it is, unless more ``rounds`` are asked for: then it goes on to that many.  Objects
    that were given to :func:`run` (``dataset``, ``model``, ``recipe``, ``aux``) must be given again.  Raises
    RunFolderError where there is no run.
    """
    folder, experiment = RunFolder.open(Path(path))
    if rounds is not None and rounds != experiment.rounds:
        experiment = parse(experiment.as_dict() | {"rounds": rounds})
        folder.extend(experiment)
    for key, name in _given(experiment):
        if objects.get(name) is None:
            raise RunFolderError(f"the run at {path} got its {key} in Python; give it again: resume(path, {name}=...)")
    if experiment.seeds > 1:
        return _run_seeds(experiment, observer, objects, resuming=True)
    experiment = experiment.model_copy(update={"out": str(path)})
    result = execute(experiment, prepare(experiment, **objects), folder, observer, resume=True)
    _illustrate(folder)
    return result


def _given(experiment: Experiment) -> list[tuple[str, str]]:
    """Return the keys of ``experiment`` whose objects were given in Python, and what :func:`resume` calls them."""
    algorithm = experiment.algorithm["name"]
    found = {
        "model": ("model", experiment.model["name"] == GIVEN),
        "data": ("dataset", experiment.data["name"] == GIVEN),
        "auxiliary": ("aux", experiment.auxiliary["name"] == GIVEN),
        "loss": ("loss", experiment.loss == GIVEN),
        "algorithm": ("recipe", algorithm not in RECIPES and ":" not in algorithm),
    }
    return [(key, name) for key, (name, given) in found.items() if given]


def _run_seeds(
    experiment: Experiment, observer: Observer | None, objects: Mapping[str, Any], resuming: bool = False
) -> Result:
    """Run the experiment for seeds ``seed``, ``seed``+1, ...; each in a run folder of its own below ``out``."""
    root = Path(experiment.out) if experiment.out else None
    folder = None
    if root is not None:
        folder = RunFolder(root) if resuming else RunFolder.create(root, experiment)
    results = []
    for seed in range(experiment.seed, experiment.seed + experiment.seeds):
        out = str(root / f"seed-{seed}") if root else None
        one = experiment.model_copy(update={"seed": seed, "seeds": 1, "out": out})
        if out and (Path(out) / CONFIG).exists():
            results.append(resume(out, observer, rounds=experiment.rounds, **objects))
        else:
            results.append(run_experiment(one, observer, **objects))
    summary = _together([r.summary for r in results], experiment)
    if folder is not None:
        folder.write_json(SUMMARY, summary)
        _illustrate(folder)
    return Result(summary, results[0].metrics, results[0].model, root)


def _together(summaries: list[dict[str, Any]], experiment: Experiment) -> dict[str, Any]:
    found: dict[str, Any] = {"algorithm": summaries[0]["algorithm"], "seeds": [s["seed"] for s in summaries]}
    for key, value in summaries[0].items():
        if isinstance(value, int | float) and key not in ("seed", "clients", "threads"):
            values = [s[key] for s in summaries]
            found[key] = {"mean": mean(values), "std": stdev(values), "values": values}
        elif key not in found and key != "seed":
            found[key] = value
    return json.loads(json.dumps(found))  # type: ignore[no-any-return]


def _illustrate(folder: RunFolder | None) -> None:
    if folder is not None:
        from cutlayer.report import write_report

        write_report(folder.path)


def default_out(experiment: Experiment, root: Path = Path("runs")) -> str:
    """Return a run folder that does not exist yet: ``runs/<algorithm>-<model>-<data>``, with a number where needed."""
    parts = [str(spec["name"]).replace(":", ".") for spec in (experiment.algorithm, experiment.model, experiment.data)]
    base = root / "-".join(parts)
    candidates = [base, *(base.with_name(f"{base.name}-{n}") for n in range(2, 10_000))]
    for candidate in candidates:
        if not candidate.exists():
            return str(candidate)
    raise ConfigError(f"there are ten thousand runs called {base}; give out=...")
