"""Nested states, such as an optimizer's ``state_dict``, as flat tensors plus a JSON skeleton, and back.

A skeleton repeats the nesting with one-key mappings for what JSON lacks: ``{"t": name}`` a tensor, ``{"d": [[key,
value], ...]}`` a dict with keys of any plain type, ``{"u": [...]}`` a tuple, ``{"f": "nan"}`` a float that is not
finite.

Law: ``restore(*flatten(tree))`` equals ``tree``, for trees of dicts, lists, tuples, tensors and plain values.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from cutlayer.errors import DamagedObject, StoreError
from cutlayer.store.base import Tensors


def flatten(tree: Any) -> tuple[Tensors, Any]:
    """Return the tensors of a tree, named by their place, and its skeleton in plain JSON.

    Raises:
        StoreError: the tree holds something that is neither a container, a tensor nor a plain value.
    """
    tensors: Tensors = {}
    return tensors, _down(tree, "", tensors)


def _down(tree: Any, place: str, tensors: Tensors) -> Any:
    if isinstance(tree, Tensor):
        while place in tensors:  # keys 1 and "1" read alike
            place += "'"
        tensors[place] = tree
        return {"t": place}
    if isinstance(tree, dict):
        return {"d": [[_plain(key, place), _down(each, f"{place}/{key}", tensors)] for key, each in tree.items()]}
    if isinstance(tree, list | tuple):
        items = [_down(each, f"{place}/{index}", tensors) for index, each in enumerate(tree)]
        return items if isinstance(tree, list) else {"u": items}
    return _plain(tree, place)


def _plain(value: Any, place: str) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"f": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise StoreError(
        f"expected tensors and plain values, got {type(value).__name__} at {place or 'the top'}; convert it"
    )


def restore(tensors: Tensors, skeleton: Any) -> Any:
    """Return the tree that ``flatten`` was given.

    Raises:
        DamagedObject: the skeleton is none, or names a tensor that is not there.
    """
    if isinstance(skeleton, list):
        return [restore(tensors, each) for each in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    try:
        ((kind, inside),) = skeleton.items()
        if kind == "t":
            return tensors[inside]
        if kind == "f":
            return float(inside)
        if kind == "u":
            return tuple(restore(tensors, each) for each in inside)
        if kind == "d":
            return {restore(tensors, key): restore(tensors, each) for key, each in inside}
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedObject(
            f"expected the skeleton of a state, got one that does not fit its tensors: {error}"
        ) from error
    raise DamagedObject(f"expected the skeleton of a state, got a mapping with {kind!r}")
