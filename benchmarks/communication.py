"""Accuracy against bytes on CIFAR-10: FSL-SAGE, CSE-FSL, SplitFed v1 and v2, FedAvg, and FSL-SAGE in int8.

    python benchmarks/communication.py DATA [--seeds 3] [--rounds 30] [--out runs/communication]
    python benchmarks/communication.py DATA --validate       choose on 5,000 training images that no client holds

8 clients x 640 images (IID), simple_conv on 24x24 crops with flips, cut after its first block, batch 64, Adam 1e-3,
one local epoch a round, q = 5, l = 10.  FSL-SAGE also goes on to the round at which it has sent a quarter of the bytes
of SplitFed v2: the question is who reaches which accuracy with how many bytes, not with how many rounds.

Runs resume where they stopped and are skipped when they are done.  Prints the table of means and standard deviations
over seeds, and the ratios.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

import cutlayer as cl
from cutlayer.data import Dataset, Subset

CLIENTS, PER_CLIENT, HELD_OUT = 8, 640, 5000
ARMS: dict[str, dict[str, Any]] = {
    "fedavg": {"algorithm": "fedavg"},
    "splitfed_v1": {"algorithm": "splitfed_v1"},
    "splitfed_v2": {"algorithm": "splitfed_v2"},
    "cse_fsl": {"algorithm": {"name": "cse_fsl", "upload_every": 5}},
    "fsl_sage": {"algorithm": {"name": "fsl_sage", "upload_every": 5, "align_every": 10}},
    "fsl_sage_int8": {
        "algorithm": {"name": "fsl_sage", "upload_every": 5, "align_every": 10},
        "codec": {"activations": "int8", "updates": "int8"},
    },
}


def dataset(path: str, validate: bool) -> Dataset:
    """Return CIFAR-10 with the clients' training images, tested on the test set or on held-out training images."""
    full = cl.load_data("cifar10", path=path)
    used = CLIENTS * PER_CLIENT
    held = torch.arange(len(full.train) - HELD_OUT, len(full.train))
    return replace(
        full, train=Subset(full.train, torch.arange(used)), test=Subset(full.train, held) if validate else full.test
    )


def one(name: str, data: Dataset, seed: int, rounds: int, out: Path, cut: str, extra: dict[str, Any]) -> cl.Result:
    """Run or resume one arm with one seed."""
    objects: dict[str, Any] = {"dataset": data}
    if (out / "config.yaml").exists():
        return cl.resume(out, **objects)
    keys = {
        "auxiliary": {"name": "linear", "pool": 4},
        "optimizer": {"name": "adam", "lr": 1e-3},
        "rounds": rounds,
        "clients": {"count": CLIENTS, "test_fraction": 0.0},
        "partition": "iid",
        "batch_size": 64,
        "augment": {"crop": 24, "flip": True},
        "cuts": [cut],
        "seed": seed,
        "checkpoint": 10,
        "out": str(out),
    }
    arm = {**keys, **ARMS[name], **extra}
    return cl.run(arm.pop("algorithm"), "simple_conv", data, **arm)


def curve(metrics: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Return (bytes so far, accuracy) of every evaluated round."""
    total, points = 0, []
    for m in metrics:
        total += m["bytes_up"] + m["bytes_down"]
        if m["test_accuracy"] is not None:
            points.append((total, m["test_accuracy"]))
    return points


def bytes_to(points: list[tuple[float, float]], target: float) -> float | None:
    """Return the bytes at which a curve first reaches ``target``."""
    return next((b for b, accuracy in points if accuracy >= target), None)


def main() -> None:
    """Run every arm and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--sage-rounds", type=int)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--cut", default="norm1")
    parser.add_argument("--out", type=Path, default=Path("runs/communication"))
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--extra", type=json.loads, default={}, help="more experiment keys, as JSON")
    options = parser.parse_args()
    data = dataset(options.data, options.validate)
    found: dict[str, list[list[tuple[float, float]]]] = {}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for name in options.arms.split(","):
            rounds = options.sage_rounds or options.rounds if name.startswith("fsl_sage") else options.rounds
            out = options.out / f"{name}-{seed}"
            result = one(name, data, seed, rounds, out, options.cut, options.extra)
            points = curve(result.metrics)
            found.setdefault(name, []).append(points)
            print(f"{name} seed {seed}: {points[-1][1]:.4f} after {points[-1][0] / 1e6:.1f} MB", flush=True)
    report(found)


def report(found: dict[str, list[list[tuple[float, float]]]]) -> None:
    """Print accuracy and bytes of every arm, and what FSL-SAGE needs for SplitFed v2's final accuracy."""

    def spread(values: list[float]) -> str:
        return f"{mean(values):.4f} ± {stdev(values) if len(values) > 1 else 0:.4f}"

    print(f"\n{'':16s}{'accuracy':>18s}{'best':>18s}{'MB':>10s}")
    for name, curves in found.items():
        print(
            f"{name:16s}{spread([c[-1][1] for c in curves]):>18s}{spread([max(a for _, a in c) for c in curves]):>18s}"
            f"{mean([c[-1][0] for c in curves]) / 1e6:10.1f}"
        )
    if "splitfed_v2" not in found:
        return
    target = mean([c[-1][1] for c in found["splitfed_v2"]])
    budget = mean([c[-1][0] for c in found["splitfed_v2"]])
    print(f"\nbytes to SplitFed v2's final accuracy ({target:.4f}), over SplitFed v2's own {budget / 1e6:.1f} MB")
    reached: dict[str, float] = {}
    for name, curves in found.items():
        needed = [bytes_to(c, target) for c in curves]
        if None in needed:
            print(f"{name:16s} not reached by {sum(n is None for n in needed)} of {len(needed)} seeds")
        else:
            reached[name] = mean(n for n in needed if n is not None)
            print(f"{name:16s} {reached[name] / 1e6:8.1f} MB   ratio {reached[name] / budget:.3f}")
    if {"fsl_sage", "fsl_sage_int8"} <= reached.keys():
        print(f"fsl_sage_int8 over fsl_sage to that accuracy: {reached['fsl_sage_int8'] / reached['fsl_sage']:.3f}")
    if {"fsl_sage", "fsl_sage_int8"} <= found.keys():
        per_round = {n: mean([c[-1][0] / len(c) for c in found[n]]) for n in ("fsl_sage", "fsl_sage_int8")}
        print(
            f"fsl_sage_int8 over fsl_sage, bytes of a round:   {per_round['fsl_sage_int8'] / per_round['fsl_sage']:.3f}"
        )


if __name__ == "__main__":
    main()
