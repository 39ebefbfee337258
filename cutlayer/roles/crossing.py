"""Values at a cut as the tensors and JSON of a message, and back.

``("h", (tensor, 64, mask))`` becomes tensors ``h0`` and ``h2`` and the JSON ``{"h1": 64}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cutlayer import step
from cutlayer.errors import WireError
from cutlayer.store import BatchKey
from cutlayer.transforms import Channel
from cutlayer.wire import dense

_PLACE = re.compile(r"0|[1-9][0-9]{0,2}")


def pack(
    prefix: str, values: Sequence[Any], channel: Channel, kind: str, key: BatchKey, seed: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return ``values`` as packed tensors and JSON; None (no gradient flows) is left out."""
    tensors, others = named(prefix, values)
    return channel.pack(kind, tensors, client=key.client, seed=seed, key=key), others


def unpack(
    prefix: str,
    tensors: Mapping[str, Tensor],
    others: Mapping[str, Any],
    channel: Channel,
    kind: str,
    key: BatchKey,
    seed: int,
) -> step.Values:
    """Return the values that :func:`pack` sent under ``prefix``, decoded; None where nothing was sent.

    Raises WireError for a name that is not of the prefix's form.
    """
    mine = {k: v for k, v in tensors.items() if k.startswith(prefix)}
    found: Mapping[str, Any] = channel.unpack(kind, mine, client=key.client, seed=seed, key=key)
    if others:
        found = {**found, **{k: v for k, v in others.items() if k.startswith(prefix)}}
    return placed(prefix, found)


def named(prefix: str, values: Sequence[Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return ``values`` by name, tensors apart from numbers; None is left out."""
    tensors: dict[str, Tensor] = {}
    others: dict[str, Any] = {}
    for index, value in enumerate(values):
        if isinstance(value, Tensor):
            tensors[f"{prefix}{index}"] = dense(value)
        elif value is not None:
            others[f"{prefix}{index}"] = value
    return tensors, others


def placed(prefix: str, found: Mapping[str, Any]) -> step.Values:
    """Return values by name as the tuple that :func:`named` was given, without trailing None.

    Raises WireError for a name that is not of the prefix's form.
    """
    if len(found) == 1 and (only := f"{prefix}0") in found:
        return (found[only],)
    places = {}
    for name, value in found.items():
        place = _PLACE.fullmatch(name, len(prefix)) if name.startswith(prefix) else None
        if place is None:
            raise WireError(f"expected fewer than 1000 values at a cut, {prefix}0, {prefix}1, ..., got {name[:80]!r}")
        places[int(place[0])] = value
    return tuple(places.get(i) for i in range(max(places, default=-1) + 1))


def joined(crossings: Sequence[step.Values]) -> step.Values:
    """Return several clients' values as those of one concatenated batch.

    Tensors with a row a sample are concatenated, numbers equal to the batch size add up, and what is the same at every
    client (a shared mask) passes once.  Raises WireError for anything else.
    """
    if len(crossings) == 1:
        return crossings[0]
    sizes = [rows(values) for values in crossings]
    return tuple(_join(column, sizes) for column in zip(*crossings, strict=True))


def rows(values: step.Values) -> int:
    """Return the number of samples in ``values``: the length of the first tensor."""
    return next(len(v) for v in values if isinstance(v, Tensor) and v.ndim)


def _join(column: tuple[Any, ...], sizes: list[int]) -> Any:
    if all(isinstance(v, Tensor) for v in column):
        if all(v.ndim and len(v) == size for v, size in zip(column, sizes, strict=True)):
            return torch.cat(column)
        if all(torch.equal(v, column[0]) for v in column):
            return column[0]
    elif list(column) == sizes:
        return sum(sizes)
    elif all(v == column[0] for v in column):
        return column[0]
    raise WireError(
        "cannot join the batches of several clients: a value at the cut has neither one row a sample nor the same "
        "content at every client; use a recipe whose server takes clients one at a time"
    )
