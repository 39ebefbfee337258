"""Accuracy against bytes on CIFAR-10: FSL-SAGE, CSE-FSL, SplitFed v1 and v2, FedAvg, and FSL-SAGE in int8.

    python benchmarks/communication.py DATA                     DATA holds cifar-10-batches-bin
    python benchmarks/communication.py DATA --partition dirichlet1      or iid
    python benchmarks/communication.py DATA --validate          choose on 5,000 training images that no client holds

8 clients x 640 images, labels shared out by Dirichlet(0.5) (or 1, the paper's smallest, or IID; clients of equal size),
simple_conv on 24x24 crops with flips, cut after its first block (64x12x12), batch 64, Adam 1e-3, one local epoch a
round, 30 rounds, q = 5, l = 10, three seeds.  What FSL-SAGE leaves open was chosen with --validate: a linear auxiliary
on 4x4 pooled activations, aligned for 40 epochs in batches of 125 at 3e-3.

FSL-SAGE goes on to 80 rounds, since the question is who reaches which accuracy with how many bytes.

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

Point = tuple[int, int, float]
CLIENTS, PER_CLIENT, HELD_OUT = 8, 640, 5000
SAGE = {"name": "fsl_sage", "upload_every": 5, "align_every": 10, "align_epochs": 40, "align_batch": 125}
PARTITIONS: dict[str, dict[str, Any]] = {
    "iid": {"name": "iid"},
    "dirichlet1": {"name": "dirichlet", "alpha": 1.0, "balanced": True},
    "dirichlet05": {"name": "dirichlet", "alpha": 0.5, "balanced": True},
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
    if (out / "summary.json").exists() and len(metrics := read(out)) >= keys["rounds"]:
        return metrics
    if (out / "config.yaml").exists():
        return cl.resume(out, dataset=data, rounds=keys["rounds"]).metrics
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


def read(out: Path) -> list[dict[str, Any]]:
    """Return the metrics in a run folder."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def curve(metrics: list[dict[str, Any]]) -> list[Point]:
    """Return (round, bytes so far, accuracy) of every evaluated round."""
    total, points = 0, []
    for m in metrics:
        total += m["bytes_up"] + m["bytes_down"]
        if m["test_accuracy"] is not None:
            points.append((m["round"], total, m["test_accuracy"]))
    return points


def first_at(points: list[Point], target: float) -> Point | None:
    """Return the first point of a curve that reaches ``target``."""
    return next((p for p in points if p[2] >= target), None)


def main() -> None:
    """Run every arm and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--further", type=int, default=80, help="rounds that FSL-SAGE goes on to, for bytes to target")
    parser.add_argument("--partition", choices=PARTITIONS, default="dirichlet05")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--out", type=Path, default=Path("runs/communication"))
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--report", action="store_true", help="print the table of the runs that are there; run nothing")
    parser.add_argument("--extra", type=json.loads, default={}, help="more experiment keys, as JSON")
    options = parser.parse_args()
    data = None if options.report else dataset(options.data, options.validate)
    found: dict[str, list[list[Point]]] = {}
    for seed in range(options.seeds):
        for name in options.arms.split(","):
            rounds = {"fsl_sage": options.further, "fsl_sage_int8": options.rounds + 10}.get(name, options.rounds)
            out = options.out / options.partition / f"{name}-{seed}"
            if data is not None:
                keys = {"rounds": rounds, "partition": PARTITIONS[options.partition], **options.extra}
                metrics = one(name, data, seed, out, keys)
                print(f"{name} seed {seed}: {metrics[-1]['test_accuracy']:.4f}", flush=True)
            elif (out / "summary.json").exists():
                metrics = read(out)
            else:
                continue
            found.setdefault(name, []).append(curve(metrics))
    report(found, options.rounds)


def report(found: dict[str, list[list[Point]]], rounds: int) -> None:
    """Print accuracy and bytes of every arm after ``rounds``, and what each needs for SplitFed v2's accuracy there."""

    def spread(values: list[float]) -> str:
        return f"{mean(values):.4f} ± {stdev(values):.4f}" if len(values) > 1 else f"{values[0]:.4f}"

    print(f"\nafter {rounds} rounds {'accuracy':>19s}{'MB':>10s}{'seeds':>7s}")
    then = {name: [[p for p in c if p[0] <= rounds][-1] for c in curves] for name, curves in found.items()}
    for name, points in then.items():
        sent = mean([p[1] for p in points]) / 1e6
        print(f"{name:16s}{spread([p[2] for p in points]):>18s}{sent:10.1f}{len(points):7d}")
    if "splitfed_v2" not in then:
        return
    target, budget = mean([p[2] for p in then["splitfed_v2"]]), mean([p[1] for p in then["splitfed_v2"]])
    print(f"\nto SplitFed v2's accuracy of {target:.4f}: rounds, MB, and MB over SplitFed v2's {budget / 1e6:.1f}")
    reached: dict[str, float] = {}
    for name, curves in found.items():
        firsts = [p for c in curves if (p := first_at(c, target)) is not None]
        if len(firsts) < len(curves):
            best = mean([max(p[2] for p in c) for c in curves])
            print(f"{name:16s} reached by {len(firsts)} of {len(curves)} seeds (best {best:.4f})")
            continue
        reached[name] = mean([p[1] for p in firsts])
        print(f"{name:16s}{mean([p[0] for p in firsts]):8.1f}{reached[name] / 1e6:10.1f}{reached[name] / budget:8.3f}")
    if {"fsl_sage", "fsl_sage_int8"} <= then.keys():
        compare_int8(found, then, rounds)


def compare_int8(found: dict[str, list[list[Point]]], then: dict[str, list[Point]], rounds: int) -> None:
    """Print what int8 saves: in a round, and to the accuracy that FSL-SAGE has after ``rounds``, seed by seed."""
    pairs = list(zip(then["fsl_sage"], then["fsl_sage_int8"], strict=False))
    print(f"\nfsl_sage_int8 over fsl_sage, MB after {rounds} rounds: {mean([b[1] / a[1] for a, b in pairs]):.3f}")
    target = mean([a[2] for a, _ in pairs])
    firsts = [first_at(curve, target) for name in ("fsl_sage", "fsl_sage_int8") for curve in found[name][: len(pairs)]]
    sent = [p[1] for p in firsts if p is not None]
    if len(sent) == len(firsts):
        ratio = sum(sent[len(pairs) :]) / sum(sent[: len(pairs)])
        print(f"fsl_sage_int8 over fsl_sage, MB to {target:.4f}, fsl_sage's accuracy then: {ratio:.3f}")
    else:
        print(f"to {target:.4f}, fsl_sage's accuracy then: not reached by {firsts.count(None)} of {len(firsts)} runs")


if __name__ == "__main__":
    main()
