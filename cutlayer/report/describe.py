"""A configuration in words: what an algorithm does, and what distinguishes several runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from cutlayer.report.runs import AnyRun

ALGORITHMS = {
    "centralized": ("Ordinary training", "All data in one place, the whole model trained there: the upper bound."),
    "local": ("Local training", "Every client trains the whole model on its own data and nothing is exchanged."),
    "fedavg": (
        "Federated averaging",
        "Every client trains the whole model; after each round the models are averaged by number of samples.",
    ),
    "vanilla": (
        "Split learning, relay",
        "One client after another trains the encoder and hands its weights on. The server trains the backbone after "
        "every batch and holds the labels.",
    ),
    "ushaped": (
        "U-shaped split learning, relay",
        "One client after another trains encoder and head and hands their weights on. The server trains the backbone "
        "after every batch and sees no labels.",
    ),
    "psl": (
        "Parallel split learning",
        "All clients send a batch at the same time; the server takes one step on the concatenated batch and holds the "
        "labels.",
    ),
    "splitfed_v1": (
        "SplitFed v1",
        "Clients train in parallel, each against its own copy of the backbone; encoders and backbones are averaged "
        "after each round.",
    ),
    "splitfed_v2": (
        "SplitFed v2",
        "Clients train in random order against one shared backbone, which steps after every batch; encoders are "
        "averaged after each round.",
    ),
    "splitfed_v3": (
        "SplitFed v3",
        "Each client keeps its own encoder and trains against its own copy of the backbone; only the backbones are "
        "averaged after each round.",
    ),
    "splitfed_u": (
        "U-shaped SplitFed",
        "Clients keep encoder, head and labels and train in parallel against one shared backbone; encoders and heads "
        "are averaged after each round.",
    ),
    "file_sync": (
        "U-shaped split learning with file-based synchronization",
        "Clients keep encoder, head and labels. The server keeps forwards and gradients in a store and nothing else, "
        "and the backbone steps on the gradients' mean.",
    ),
    "sglr": (
        "Split learning with averaged cut gradients",
        "Each client trains against its own copy of the backbone; cut gradients are averaged over the clients before "
        "they go back, and backbones after each round.",
    ),
    "cse_fsl": (
        "CSE-FSL, split learning with local losses",
        "Clients train encoder and auxiliary model on a local loss and upload only every q-th batch; nothing comes "
        "back but averages.",
    ),
    "fsl_sage": (
        "FSL-SAGE, split learning with estimated gradients",
        "Clients estimate cut gradients with an auxiliary model, upload only every q-th batch, and the server "
        "realigns the auxiliary models every l-th round.",
    ),
}
# They may differ, but do not name a run.
UNINFORMATIVE = frozenset({"out", "name", "store", "seeds", "checkpoint", "engine", "device", "threads"})


def name_of(value: object) -> str:
    """The name of a configured thing: `fedavg` for both `fedavg` and `{name: fedavg, ...}`; lists joined by ` + `."""
    if isinstance(value, Mapping):
        inner = value.get("name", value.get("at"))
        return name_of(inner) if inner is not None else ", ".join(f"{k}={name_of(v)}" for k, v in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " + ".join(name_of(each) for each in value)
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def with_options(value: object) -> str:
    """The name and its options: `dirichlet (alpha=0.5)`."""
    if not isinstance(value, Mapping) or value.get("name") is None:
        return name_of(value)
    options = ", ".join(f"{key}={name_of(each)}" for key, each in value.items() if key != "name" and each is not None)
    return f"{name_of(value)} ({options})" if options else name_of(value)


def algorithm_of(run: AnyRun) -> str:
    """The name of the algorithm, from the configuration or else the summary."""
    return name_of(run.config.get("algorithm", run.summary.get("algorithm", "unknown algorithm")))


def algorithm_in_words(run: AnyRun) -> tuple[str, str]:
    """A title and a sentence; for an algorithm that is not cutlayer's own, its name and nothing."""
    return ALGORITHMS.get(algorithm_of(run), (algorithm_of(run), ""))


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys; the name of a named mapping stands at the mapping's own key (`algorithm`, `algorithm.upload`)."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if not isinstance(value, Mapping):
            flat[str(key)] = value
            continue
        for inner, each in flatten(value).items():
            flat[str(key) if inner == "name" else f"{key}.{inner}"] = each
    return flat


def differences(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """For each configuration the keys, with their values, in which it differs from the others.

    An option of a named thing counts only among configurations with the same name there: that `fsl_sage` has an upload
    period says nothing beside `fedavg`, which has none.
    """
    flat = [flatten(config) for config in configs]
    tops = {key for each in flat for key in each if "." not in key}
    for each, config in zip(flat, configs, strict=True):  # a codec may be one name here and one name per message there
        each.update({key: name_of(config[key]) for key in (tops & config.keys()) - each.keys()})
    keys = list(dict.fromkeys(key for each in flat for key in each if key.split(".")[0] not in UNINFORMATIVE))
    found: list[dict[str, str]] = [{} for _ in flat]
    for key in keys:
        parents = [key.rsplit(".", depth)[0] for depth in range(1, key.count(".") + 1)]
        groups: dict[tuple[str, ...], list[int]] = {}
        for index, each in enumerate(flat):
            groups.setdefault(tuple(name_of(each.get(parent)) for parent in parents), []).append(index)
        for members in groups.values():
            values = [name_of(flat[index].get(key)) for index in members]
            if len(set(values)) > 1:
                for index, value in zip(members, values, strict=True):
                    found[index][key] = value
    return found


def labels(runs: Sequence[AnyRun], longest: int = 3) -> list[str]:
    """One distinct label for each run: the algorithm if the runs differ in it, then `key=value` for what else differs.

    A value that most of the runs have is not written, and at most `longest` settings are.  Labels that would still be
    equal get the name of the run folder.
    """
    every = differences([run.config for run in runs])
    found = []
    for run, all_different in zip(runs, every, strict=True):
        different = {
            key: value
            for key, value in all_different.items()
            if key == "algorithm" or 2 * sum(each.get(key) == value for each in every) <= len(runs)
        }
        parts = [different.pop("algorithm")] if "algorithm" in different else []
        parts += [f"{key}={value}" for key, value in list(different.items())[:longest]]
        if len(different) > longest:
            parts.append(f"+{len(different) - longest} more")
        found.append(", ".join(parts) or run.path.resolve().name)
    for width in (1, 2, 3):
        repeated = {label for label in found if found.count(label) > 1}
        tails = ["/".join(run.path.resolve().parts[-width:]) for run in runs]
        found = [
            (tail if label == run.path.resolve().name else f"{label} [{tail}]") if label in repeated else label
            for label, tail, run in zip(found, tails, runs, strict=True)
        ]
    return [f"{label} #{i + 1}" if found.count(label) > 1 else label for i, label in enumerate(found)]
