"""Checks of options and shapes that the models share."""

from __future__ import annotations

from typing import Any

from cutlayer.errors import ConfigError


def whole(model: str, option: str, value: Any, least: int = 1) -> int:
    """Return ``value`` if it is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"model {model} needs {option} to be a whole number of at least {least}, and {value!r} came")
    return value


def probability(model: str, option: str, value: Any) -> float:
    """Return ``value`` if it is in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ConfigError(f"model {model} needs {option} to be a number in [0, 1), and {value!r} came")
    return float(value)


def image(model: str, shape: tuple[int, ...], least: int = 1) -> tuple[int, int, int]:
    """Return (channels, height, width) if ``shape`` is that of an image of at least ``least`` x ``least`` pixels."""
    if len(shape) != 3 or min(shape[1:]) < least:
        raise ConfigError(
            f"model {model} needs images of shape (channels, height, width) of at least {least}x{least} pixels, and "
            f"the inputs are {tuple(shape)}: choose another model (mlp takes any shape) or other data"
        )
    return shape[0], shape[1], shape[2]
