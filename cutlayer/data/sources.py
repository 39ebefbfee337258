"""The table of data sources and the one way to load them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from importlib import import_module
from typing import Any, get_type_hints

from cutlayer.data.samples import Dataset, check
from cutlayer.errors import ConfigError, DataError

SOURCES = {
    "digits": "cutlayer.data.digits:digits",
    "mnist": "cutlayer.data.idx:mnist",
    "fashion_mnist": "cutlayer.data.idx:fashion_mnist",
    "idx": "cutlayer.data.idx:idx",
    "cifar10": "cutlayer.data.cifar:cifar10",
    "cifar100": "cutlayer.data.cifar:cifar100",
    "npz": "cutlayer.data.npz:npz",
    "csv": "cutlayer.data.csv_table:csv_table",
    "heart_disease": "cutlayer.data.heart_disease:heart_disease",
    "hf": "cutlayer.data.huggingface:hf",
}


def load(name: str, **options: Any) -> Dataset:
    """Return the data set ``name``: a name of ``SOURCES``, or "package.module:function" for your own.

    Your function gets the options that are given, and returns a Dataset or four arrays or tensors
    (train_x, train_y, test_x, test_y).  Raises ConfigError for a wrong name or option, DataError for wrong data.
    """
    if ":" in name:
        from cutlayer.data.user import user

        return check(user(name, **options))
    if name not in SOURCES:
        raise ConfigError(
            f"data {name!r} is not a source; there are: {', '.join(SOURCES)}, or package.module:function for your own"
        )
    module, _, function = SOURCES[name].partition(":")
    source: Callable[..., Dataset] = getattr(import_module(module), function)
    known = inspect.signature(source).parameters
    for option in options:
        if option not in known:
            raise ConfigError(f"data {name} has no option {option!r}; it has: {', '.join(known) or 'none'}")
    hints = get_type_hints(source)
    for option, value in options.items():
        options[option] = _typed(name, option, value, hints[option])
    for option, parameter in known.items():
        if parameter.default is parameter.empty and options.get(option) is None:
            raise DataError(f"data {name} needs data.{option}, and it is not given: add data.{option}=...")
    return check(source(**options))


def _typed(name: str, option: str, value: Any, hint: Any) -> Any:
    """Return ``value`` if it is of the type that the source declares for ``option``; a path may be any path-like."""
    from pydantic import TypeAdapter, ValidationError

    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    try:
        TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError as error:
        expected = str(getattr(hint, "__name__", hint)).replace("collections.abc.", "")
        raise ConfigError(f"data {name} needs data.{option} to be of type {expected}, and {value!r} came") from error
    return value
