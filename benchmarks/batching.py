"""Requests of several clients in one forward over one after another: does a split server gain by joining them?

    python benchmarks/batching.py [--device cuda]

A window needs every batch's own gradient: each counts once, whatever is killed.  So a joined forward must be followed
by a backward for each batch, either through the joined graph or by torch.func.vmap, which gives all of them in a call.
Milliseconds for the forwards and backwards of five clients' batches of 64, and the ratios to one after another.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

CLIENTS, BATCH = 5, 64


def backbones() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Return backbones without BatchNorm and dropout, and the shape of a sample's activations."""
    return {
        "mlp": (nn.Sequential(nn.Linear(64, 64), nn.ReLU()), (64,)),
        "conv": (
            nn.Sequential(
                nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()
            ),
            (32, 16, 16),
        ),
        "transformer": (nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True), (16, 64)),
    }


def ways(part: nn.Module, h: list[Tensor], δ: list[Tensor]) -> dict[str, Callable[[], Any]]:
    """Return the ways to compute every batch's outputs and gradients."""
    weights = dict(part.named_parameters())

    def one_after_another() -> None:
        for values, gradient in zip(h, δ, strict=True):
            start = values.detach().requires_grad_()
            torch.autograd.grad(part(start), (*weights.values(), start), gradient)

    def joined() -> None:
        start = torch.cat(h).requires_grad_()
        z = part(start)
        for i, gradient in enumerate(δ):
            own = torch.zeros_like(z)
            own[i * BATCH : (i + 1) * BATCH] = gradient
            torch.autograd.grad(z, (*weights.values(), start), own, retain_graph=True)

    def of_one(values: Tensor, gradient: Tensor) -> Any:
        frozen = {name: weight.detach() for name, weight in weights.items()}
        _, pull = vjp(lambda w, x: functional_call(part, w, (x,)), frozen, values)
        return pull(gradient)

    mapped = vmap(of_one)
    return {
        "one after another": one_after_another,
        "one forward": joined,
        "vmap": lambda: mapped(torch.stack(h), torch.stack(δ)),
    }


def milliseconds(work: Callable[[], Any], device: torch.device, repetitions: int) -> float:
    """Return the median of ``repetitions``."""
    found = []
    for _ in range(repetitions + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(1e3 * (time.perf_counter() - start))
    return median(found[1:])


def main() -> None:
    """Print a row for every backbone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repetitions", type=int, default=15)
    given = parser.parse_args()
    device = torch.device(given.device)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # vmap says where it has no batched kernel
    for name, (part, shape) in backbones().items():
        part = part.to(device)
        h = [torch.randn(BATCH, *shape, device=device) for _ in range(CLIENTS)]
        δ = [torch.randn_like(part(values)).detach() for values in h]
        times = {way: milliseconds(work, device, given.repetitions) for way, work in ways(part, h, δ).items()}
        base = times["one after another"]
        shown = ", ".join(f"{way} {ms:.2f} ms ({ms / base:.2f})" for way, ms in times.items())
        sys.stdout.write(f"{name:12} {shown}\n")


if __name__ == "__main__":
    main()
