"""Run folders as the engine writes them, with plausible curves, in every size and state of disrepair."""

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
import yaml

HOSTILE = [
    '<script>alert("x")</script>',
    "a & b </td>",
    "$\\frac{1}{2$ _x_ [red]",
    "病院\n№ 4 \u0000\u202e",
    "'\"><img src=x onerror=y>",
]


class WriteRun(Protocol):
    def __call__(self, name: str, **options: Any) -> Path: ...


def synthetic_run(
    folder: Path,
    *,
    clients: int = 5,
    rounds: int = 30,
    algorithm: str | dict[str, Any] = "file_sync",
    seed: int = 0,
    classes: int = 10,
    names: list[str] | None = None,
    speed: float = 0.15,
    ceiling: float = 0.96,
    bytes_per_round: float = 2.4e6,
    evaluate_every: int = 1,
    round_zero: bool = True,
    finished: bool = True,
    optional: bool = True,
    torn: bool = False,
    config: dict[str, Any] | None = None,
    scheme: str = "dirichlet(alpha=0.5)",
) -> Path:
    """Write a run folder and return it."""
    random = np.random.default_rng(seed)
    names = names or [str(index) for index in range(clients)]
    clients = len(names)
    folder.mkdir(parents=True, exist_ok=True)
    experiment: dict[str, Any] = {
        "algorithm": algorithm if isinstance(algorithm, dict) else {"name": algorithm},
        "model": {"name": "simple_conv"},
        "cuts": ["features.conv2", "dense1"],
        "data": {"name": "cifar10", "root": "data/cifar10"},
        "partition": {"name": "dirichlet", "alpha": 0.5},
        "clients": {"number": clients, "fraction": 1.0},
        "rounds": rounds,
        "local_epochs": 1,
        "batch_size": 64,
        "optimizer": {"client": {"name": "adam", "lr": 0.001}, "server": {"name": "adam", "lr": 0.001}},
        "codec": {"activations": "fp32"},
        "seed": seed,
        "out": str(folder),
    }
    experiment.update(config or {})
    (folder / "config.yaml").write_text(yaml.safe_dump(experiment, sort_keys=False, allow_unicode=True), "utf-8")

    held = random.multinomial(200, random.dirichlet([0.5] * classes), size=clients) * random.integers(
        1, 6, (clients, 1)
    )
    skill = random.normal(0, 0.05, clients)
    lines = []
    sent = {"activations": 0.5, "cut_gradients": 0.34, "output_gradients": 0.06, "outputs": 0.05, "updates": 0.05}
    for number in range(0 if round_zero else 1, (rounds if finished else rounds // 2) + 1):
        level = 1 / classes + (ceiling - 1 / classes) * (1 - np.exp(-speed * number)) + random.normal(0, 0.006)
        evaluated = number % evaluate_every == 0 or number == rounds
        line: dict[str, Any] = {"round": number, "test_loss": None, "test_accuracy": None}
        if evaluated:
            line["test_loss"] = float(2.3 * np.exp(-speed * number) + 0.2 + random.normal(0, 0.01))
            line["test_accuracy"] = float(np.clip(level, 0, 1))
            accuracy = np.clip(level + skill + random.normal(0, 0.01, clients), 0, 1)
            line["client_accuracy"] = dict(zip(names, accuracy.tolist(), strict=True))
            line["client_loss"] = dict(zip(names, (2.3 * (1 - accuracy)).tolist(), strict=True))
        if number:
            total = bytes_per_round * (1 + 0.02 * random.random())
            kinds = {kind: int(share * total) for kind, share in sent.items()} if bytes_per_round else {}
            line["loss"] = float(2.3 * np.exp(-speed * number) + 0.08 + random.normal(0, 0.01))
            line["bytes"] = kinds
            line["bytes_up"] = kinds.get("activations", 0) + kinds.get("output_gradients", 0)
            line["bytes_down"] = sum(kinds.values()) - line["bytes_up"]
            spent = {"client": 0.9, "server": 0.55, "federated": 0.02, "evaluation": 0.2, "checkpoint": 0.04}
            line["time"] = {part: seconds * float(random.uniform(0.9, 1.2)) for part, seconds in spent.items()}
            line["seconds"] = sum(line["time"].values()) + 0.08
            line["client_samples"] = dict(zip(names, held.sum(axis=1).tolist(), strict=True))
            line["samples"] = int(held.sum())
        lines.append(line)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + ('{"round": 99, "los' if torn else ""), "utf-8")

    if optional:
        _write(
            folder / "partition.json",
            {
                "scheme": scheme,
                "classes": [str(c) for c in range(classes)],
                "clients": [
                    {"name": name, "counts": counts, "test": sum(counts) // 5}
                    for name, counts in zip(names, held.tolist(), strict=True)
                ],
            },
        )
        _write(
            folder / "model.json",
            {
                "method": "fx",
                "cuts": ["features.conv2", "dense1"],
                "parts": {
                    "encoder": {"parameters": 107328, "flops": 36_000_000},
                    "backbone": {"parameters": 885120, "flops": 5_300_000},
                    "head": {"parameters": 75466, "flops": 450_000},
                },
                "crossings": [
                    {"cut": "features.conv2", "shape": [64, 6, 6], "bytes": 9216},
                    {"cut": "dense1", "shape": [384], "bytes": 1536},
                ],
            },
        )
    if finished:
        evaluated_lines = [line["test_accuracy"] for line in lines if line["test_accuracy"] is not None]
        seconds = sum(line.get("seconds", 0) for line in lines)
        summary = {
            "algorithm": experiment["algorithm"]["name"],
            "test_accuracy": evaluated_lines[-1],
            "best_accuracy": max(evaluated_lines),
            "rounds": rounds,
            "bytes_up": sum(line.get("bytes_up", 0) for line in lines),
            "bytes_down": sum(line.get("bytes_down", 0) for line in lines),
            "seconds": seconds,
            "samples_per_second": sum(line.get("samples", 0) for line in lines) / seconds,
            "seed": seed,
            "versions": {"cutlayer": "0.1.0", "torch": "2.13.0", "python": "3.11.9", "numpy": "2.4.6"},
            "parameters": {"encoder": 107328, "backbone": 885120, "head": 75466},
            "device": "cpu",
        }
        _write(folder / "summary.json", summary)
    return folder


def synthetic_group(folder: Path, *, seeds: int = 3, **options: Any) -> Path:
    """A folder with one run folder per seed and a summary of all."""
    for seed in range(seeds):
        synthetic_run(folder / f"seed-{seed}", seed=seed, **options)
    _write(folder / "summary.json", {"seeds": list(range(seeds))})
    return folder


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), "utf-8")


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """`write_run("name", clients=200, ...)` -> a run folder."""
    return lambda name, **options: synthetic_run(tmp_path / name, **options)


@pytest.fixture
def write_group(tmp_path: Path) -> WriteRun:
    """`write_group("name", seeds=3, ...)` -> a folder with a run folder for each seed."""
    return lambda name, **options: synthetic_group(tmp_path / name, **options)


@pytest.fixture
def hostile_names() -> list[str]:
    """Client names that are markup, mathematics, terminal styles, or not printable."""
    return HOSTILE
