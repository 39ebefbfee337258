"""User code by name: "package.module:function"."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

from cutlayer.errors import ConfigError, CutlayerError

OWN = frozenset({"cutlayer.models"})
"""What cutlayer's own names lead to."""

_allowed: frozenset[str] | None = None


def restrict(modules: Iterable[str]) -> None:
    """From now on, load from ``modules`` and the modules inside them alone, in this process.

    For processes that are told names from elsewhere: a service, a client.
    """
    global _allowed
    _allowed = OWN | frozenset(modules)


def _check_allowed(module: str, target: str, what: str) -> None:
    if _allowed is None or any(module == name or module.startswith(f"{name}.") for name in _allowed):
        return
    raise ConfigError(
        f"{what} {target!r} names code that this process was not allowed to run; if you trust it, start it with "
        f"--allow {module}"
    )


def load_target(target: str, what: str) -> Callable[..., Any]:
    """Return the function or class that "package.module:function" names; ``what`` is the key it came from.

    Raises ConfigError.
    """
    found = load_object(target, what)
    if not callable(found):
        raise ConfigError(f"{what} {target!r} must be a function or class, and it is a {type(found).__name__}")
    function: Callable[..., Any] = found
    return function


def load_object(target: str, what: str) -> Any:
    """Return what "package.module:name" names; ``what`` is the key it came from, for the message.

    The current directory is searched last, so that a file beside the experiment is found.  Raises ConfigError.
    """
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise ConfigError(f"{what} must be a known name or package.module:function, and {target!r} came")
    _check_allowed(module_name, target, what)
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{what} {target!r} needs the module {error.name!r}, and it cannot be imported: start in the folder that "
            "holds it, or install it"
        ) from error
    except Exception as error:
        raise ConfigError(f"{what} {target!r}: {module_name} raised {type(error).__name__}: {error}") from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise ConfigError(f"{what} {target!r} is not there: {module_name} has no {attribute!r}")
        found = getattr(found, name)
    return found


def call_accepted(
    function: Callable[..., Any], what: str, offered: Mapping[str, Any], options: Mapping[str, Any]
) -> Any:
    """Call ``function`` with those of ``offered`` that it accepts, and with all ``options``, which it must accept."""
    parameters = inspect.signature(function).parameters
    everything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for option in options:
        if not everything and option not in names:
            raise ConfigError(f"{what} has no option {option!r}; it has: {', '.join(names) or 'none'}")
    arguments = {n: v for n, v in offered.items() if everything or n in names} | dict(options)
    for name, parameter in parameters.items():
        if name in names and parameter.default is parameter.empty and name not in arguments:
            raise ConfigError(f"{what} needs the option {name!r}, and it is not given")
    try:
        return function(**arguments)
    except CutlayerError:
        raise
    except Exception as error:
        raise ConfigError(f"{what} raised {type(error).__name__}: {' '.join(str(error).split())}") from error
