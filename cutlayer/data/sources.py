"""The table of data sources and the one way to load them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from cutlayer.data.samples import Dataset, check
from cutlayer.errors import ConfigError, DataError

SOURCES = {
    "digits": "cutlayer.data.digits:digits",
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
    for option, parameter in known.items():
        if parameter.default is parameter.empty and options.get(option) is None:
            raise DataError(f"data {name} needs data.{option}, and it is not given: add data.{option}=...")
    return check(source(**options))
