"""Accuracy against bytes on CIFAR-10: FSL-SAGE, CSE-FSL, SplitFed v1 and v2, FedAvg, and FSL-SAGE in int8.

    python benchmarks/communication.py DATA                     DATA holds cifar-10-batches-bin
    python benchmarks/communication.py DATA --partition iid     the other end of the paper's range
    python benchmarks/communication.py DATA --validate          choose on 5,000 training images that no client holds

8 clients x 640 images, labels shared out by Dirichlet(1) (the paper's smallest concentration; clients of equal size),
simple_conv on 24x24 crops with flips, cut after its first block (64x12x12), batch 64, Adam 1e-3, one local epoch a
round, 30 rounds, q = 5, l = 10, three seeds.  What FSL-SAGE leaves open was chosen with --validate: a linear auxiliary
on 4x4 pooled activations, aligned for 40 epochs in batches of 125 at 3e-3.

Runs resume where they stopped and are skipped when they are done.  Prints means and standard deviations over seeds, the
bytes to SplitFed v2's final accuracy as a ratio, and what int8 saves.
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
SAGE = {"name": "fsl_sage", "upload_every": 5, "align_every": 10, "align_epochs": 40, "align_batch": 125}
PARTITIONS: dict[str, dict[str, Any]] = {
    "iid": {"name": "iid"},
    "dirichlet": {"name": "dirichlet", "alpha": 1.0, "balanced": True},
}
ARMS: dict[str, dict[str, Any]] = {
    "fedavg": {"algorithm": "fedavg"},
    "splitfed_v1": {"algorithm": "splitfed_v1"},
    "splitfed_v2": {"algorithm": "splitfed_v2"},
    "cse_fsl": {"algorithm": {"name": "cse_fsl", "upload_every": 5}},
    "fsl_sage": {"algorithm": SAGE},
    "fsl_sage_int8": {"algorithm": SAGE, "codec": {"activations": "int8", "updates": "int8"}},
}


def dataset(path: str, validate: bool) -> Dataset:
    """Return CIFAR-10 with the clients' training images, tested on the test set or on held-out training images."""
    full = cl.load_data("cifar10", path=path)
    used = CLIENTS * PER_CLIENT
    held = torch.arange(len(full.train) - HELD_OUT, len(full.train))
    return replace(
        full, train=Subset(full.train, torch.arange(used)), test=Subset(full.train, held) if validate else full.test
    )


def one(name: str, data: Dataset, seed: int, out: Path, keys: dict[str, Any]) -> list[dict[str, Any]]:
    """Run, resume or read one arm with one seed; returns its metrics."""
    if (out / "summary.json").exists():
        return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    if (out / "config.yaml").exists():
        return cl.resume(out, dataset=data).metrics
    common = {
        "auxiliary": {"name": "linear", "pool": 4},
        "optimizer": {"name": "adam", "lr": 1e-3, "auxiliary": {"lr": 3e-3}},
        "clients": {"count": CLIENTS, "test_fraction": 0.0},
        "batch_size": 64,
        "augment": {"crop": 24, "flip": True},
        "cuts": ["norm1"],
        "evaluate": 5,
        "checkpoint": 10,
        "seed": seed,
        "out": str(out),
    }
    arm = {**common, **ARMS[name], **keys}
    return cl.run(arm.pop("algorithm"), "simple_conv", data, **arm).metrics


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
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--partition", choices=PARTITIONS, default="dirichlet")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--out", type=Path, default=Path("runs/communication"))
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--extra", type=json.loads, default={}, help="more experiment keys, as JSON")
    options = parser.parse_args()
    data = dataset(options.data, options.validate)
    found: dict[str, list[list[tuple[float, float]]]] = {}
    keys = {"rounds": options.rounds, "partition": PARTITIONS[options.partition], **options.extra}
    for seed in range(options.seeds):
        for name in options.arms.split(","):
            points = curve(one(name, data, seed, options.out / options.partition / f"{name}-{seed}", keys))
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
