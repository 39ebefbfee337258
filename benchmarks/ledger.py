"""What summing gradients durably costs, three ways, in one run.

    python benchmarks/ledger.py [--params 11000000] [--clients 4] [--batches 8]

A replica gets the gradients of every batch, makes them durable, and another process (here: a fresh object) reduces them
to one mean gradient.  Each way ends with the same total, to rounding, and is independent of the order of arrival:

    fold    the canonical fold of `cutlayer.store.ledger`: running prefixes in memory, one file per client
    files   one file per batch, folded in canonical order
    fixed   fixed-point int64 accumulation, which is associative: one running sum, one file

Printed: seconds, bytes written, and ratios to ``fold``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable

import torch
from torch import Tensor

from cutlayer.store import BatchKey, GradientLedger, ObjectStore

Tensors = dict[str, Tensor]
BITS = 40  # after the binary point: gradients up to 2**7 over 2**16 samples fit into 63 bits
SAMPLES = 64


def model_shapes(params: int) -> dict[str, list[int]]:
    """Convolutions like a ResNet's, about ``params`` values in 20 weights and 40 vectors."""
    width = max(1, round((params / 20 / 9) ** 0.5))
    shapes = {f"conv{i}.weight": [width, width, 3, 3] for i in range(20)}
    return shapes | {f"norm{i}.{name}": [width] for i in range(20) for name in ("weight", "bias")}


def by_ledger(folder: str, keys: list[BatchKey], gradients: list[Tensors], position: int | None) -> tuple[Tensors, int]:
    """Sum with the ledger; ``position`` None keeps prefixes, -1 writes every batch."""
    store = ObjectStore(folder)
    ledger = GradientLedger(store, "run", 0)
    for key, gradient in zip(keys, gradients, strict=True):
        ledger.add(key, key.text, SAMPLES, gradient, position=position)
    ledger.flush()
    return GradientLedger(store, "run", 0).total(keys).gradients, store.size_bytes()


def by_fixed_point(folder: str, keys: list[BatchKey], gradients: list[Tensors]) -> tuple[Tensors, int]:
    """Sum b·g in int64 with ``BITS`` bits after the binary point."""
    store = ObjectStore(folder)
    sums = {name: torch.zeros(tensor.shape, dtype=torch.int64) for name, tensor in gradients[0].items()}
    for gradient in gradients:
        for name, tensor in gradient.items():
            sums[name] += tensor.double().mul_(SAMPLES * 2.0**BITS).round_().to(torch.int64)
    store.put("run/sum", sums)
    read, _ = store.get("run/sum")
    scale = SAMPLES * len(keys) * 2.0**BITS
    return {name: (tensor.double() / scale).float() for name, tensor in read.items()}, store.size_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=int, default=11_000_000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(0)
    shapes = model_shapes(args.params)
    few = [{name: torch.randn(shape) * 0.01 for name, shape in shapes.items()} for _ in range(4)]
    keys = [BatchKey(client, 0, 0, batch) for batch in range(args.batches) for client in range(args.clients)]
    gradients = [few[index % len(few)] for index in range(len(keys))]
    ways: dict[str, Callable[[str], tuple[Tensors, int]]] = {
        "fold": lambda folder: by_ledger(folder, keys, gradients, None),
        "files": lambda folder: by_ledger(folder, keys, gradients, -1),
        "fixed": lambda folder: by_fixed_point(folder, keys, gradients),
    }
    seconds = dict.fromkeys(ways, float("inf"))
    totals: dict[str, Tensors] = {}
    written: dict[str, int] = {}
    for _ in range(args.repeats):  # the ways take turns, so that a busy machine hurts all of them
        for name, way in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                totals[name], written[name] = way(folder)
                seconds[name] = min(seconds[name], time.perf_counter() - start)
    exact = all(torch.equal(totals["fold"][name], totals["files"][name]) for name in shapes)
    apart = max(float((totals["fold"][name] - totals["fixed"][name]).abs().max()) for name in shapes)
    print(
        json.dumps(
            {
                "parameters": sum(tensor.numel() for tensor in few[0].values()),
                "gradients": len(keys),
                "seconds": {name: round(value, 3) for name, value in seconds.items()},
                "milliseconds_per_gradient": {n: round(1e3 * v / len(keys), 1) for n, v in seconds.items()},
                "time_over_fold": {name: round(value / seconds["fold"], 2) for name, value in seconds.items()},
                "bytes_over_fold": {name: round(value / written["fold"], 2) for name, value in written.items()},
                "fold_equals_files_bit_for_bit": exact,
                "largest_difference_to_fixed": apart,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
