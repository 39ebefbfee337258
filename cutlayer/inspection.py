"""``cutlayer inspect``: for every possible cut, what each side holds and what crosses, before anything runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cutlayer import config, models
from cutlayer.cutting import CutCost, inspect_cut, inspect_model
from cutlayer.engines.prepare import load_dataset, outline_of
from cutlayer.errors import ConfigError, CutError

INPUTS = {"mlp": "64", "lenet": "1x28x28", "simple_conv": "3x24x24"}
"""Shapes that the zoo is looked at with where neither data nor a shape is given; images of 3x32x32 otherwise."""


def inspect(
    model: str, overrides: Sequence[str], at: Sequence[str], shape: str | None, classes: int
) -> list[dict[str, Any]]:
    """Return one row a cut as plain values; with ``at`` only that cut, one point or two.

    The example batch has a few samples of the data that ``overrides`` name, or two made up with ``shape`` ("3x32x32",
    "128:int64").  Raises ConfigError, DataError or CutError.
    """
    experiment = config.load(None, [f"model={model}", *(o for o in overrides if not o.startswith("model."))])
    options = config.load(None, [f"model.name={model}", *(o for o in overrides if o.startswith("model."))]).model
    options = {k: v for k, v in options.items() if k != "name"}
    if shape is None and any(o.startswith("data") for o in overrides):
        dataset = load_dataset(experiment.data)
        outline = outline_of(dataset, experiment)
        example, input_shape = outline.inputs, outline.shape
        classes = dataset.classes
    else:
        example, input_shape = made_up(shape or INPUTS.get(model, "3x32x32"), classes)
    built = models.build(model, classes=classes, input_shape=input_shape, seed=experiment.seed, **options)
    if at:
        return [_row(inspect_cut(built, list(at), example))]
    rows = [_row(cost) for cost in inspect_model(built, example)]
    if all(row["reason"] for row in rows):
        raise CutError(f"{model} cannot be cut anywhere: {rows[0]['reason'] if rows else 'it has no submodules'}")
    return rows


def made_up(text: str, classes: int) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Return a batch of two samples of shape ``text`` and that shape; whole numbers are drawn below ``classes``."""
    sizes, _, kind = text.partition(":")
    try:
        shape = tuple(int(size) for size in sizes.split("x"))
        dtype = getattr(torch, kind or "float32")
        if min(shape) < 1 or not isinstance(dtype, torch.dtype):
            raise ValueError
    except (ValueError, AttributeError):
        raise ConfigError(f"--input must be sizes and a dtype, such as 3x32x32 or 128:int64, got {text!r}") from None
    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return (torch.randn(2, *shape, generator=generator).to(dtype),), shape
    return (torch.randint(classes, (2, *shape), generator=generator).to(dtype),), shape


def _row(cost: CutCost) -> dict[str, Any]:
    return {
        "cut": list(cost.cuts),
        "method": cost.method,
        "parts": {p.role: {"parameters": p.parameters, "flops": p.flops} for p in cost.parts},
        "client_parameters": cost.client_parameters,
        "parameters": cost.parameters,
        "client_flops": cost.client_flops,
        "flops": cost.flops,
        "client_share": cost.client_share,
        "crossings": [
            {
                "cut": c.cut,
                "name": c.name,
                "shape": list(c.shape),
                "dtype": c.dtype,
                "bytes": c.bytes_per_sample,
                "passes_through": c.passes_through,
            }
            for c in cost.crossings
        ],
        "bytes_up": cost.bytes_up,
        "bytes_down": cost.bytes_down,
        "reason": cost.reason,
    }


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows as a table, and below it why other cuts are impossible and what passes through."""
    from rich.console import Console
    from rich.table import Table

    from cutlayer.report import format_bytes

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("cut after", overflow="fold")
    table.add_column("how")
    for title in ("parameters", "FLOPs", "share", "activation", "up", "down"):
        table.add_column(title, justify="right")
    for row in rows:
        if row["reason"] is None:
            table.add_row(
                " + ".join(row["cut"]), row["method"], f"{row['client_parameters']:,}", _short(row["client_flops"]),
                f"{row['client_share']:.1%}", _shapes(row["crossings"]), format_bytes(row["bytes_up"]),
                format_bytes(row["bytes_down"]),
            )  # fmt: skip
    console = Console()
    if table.row_count:
        first = next(row for row in rows if row["reason"] is None)
        console.print(table)
        console.print(
            f"Parameters, FLOPs (forward and backward, a sample) and their share are the client's, of "
            f"{first['parameters']:,} and {_short(first['flops'])} in all; activations, up and down are a sample's.",
            highlight=False,
        )
    for name in dict.fromkeys(c["name"] for row in rows for c in row["crossings"] if c["passes_through"]):
        console.print(f"input {name} passes through the cut: the server sees it", highlight=False, markup=False)
    for row in rows:
        if row["reason"] is not None:
            console.print(f"{' + '.join(row['cut'])}: {row['reason']}", highlight=False, markup=False)


def _shapes(crossings: Sequence[dict[str, Any]]) -> str:
    return "; ".join("x".join(map(str, c["shape"])) or c["dtype"] for c in crossings)


def _short(count: float) -> str:
    if count < 1000:
        return f"{count:.0f}"
    power = min(int(math.log10(count) // 3), 5)
    return f"{count / 1000**power:.3g}{' kMGTP'[power]}"
