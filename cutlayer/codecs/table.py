"""The table of codecs, and how an experiment's ``codec`` names them.

codec: int8                                        every kind of message
codec: {name: topk, ratio: 0.05}                   every kind, with options
codec: {activations: int8, updates: {name: topk}}  only these kinds; the others travel as they are
codec: mypackage.codecs:MyCodec                    a `Transform` of one's own
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cutlayer.codecs.bf16 import Bf16
from cutlayer.codecs.feedback import ErrorFeedback
from cutlayer.codecs.fp16 import Fp16
from cutlayer.codecs.fp32 import Fp32
from cutlayer.codecs.int8 import Int8
from cutlayer.codecs.topk import TopK
from cutlayer.errors import ConfigError
from cutlayer.targets import load_target
from cutlayer.transforms import KINDS, Channel, Transform

CODECS: dict[str, Callable[..., Transform]] = {
    "fp32": Fp32,
    "bf16": Bf16,
    "fp16": Fp16,
    "int8": Int8,
    "topk": TopK,
}

Spec = str | Mapping[str, Any] | None


def parse(spec: Spec) -> Channel:
    """Return the channel that ``spec`` describes; see the module's text.  A plain codec is meant for all four kinds.

    Raises:
        ConfigError: an unknown codec, kind or option.
    """
    if isinstance(spec, Mapping) and "name" not in spec:
        if unknown := [str(kind) for kind in spec if kind not in KINDS]:
            raise ConfigError(
                f"codec expected a mapping with 'name', or with kinds of messages out of {', '.join(KINDS)}, got "
                f"{', '.join(unknown)}"
            )
        return Channel({kind: chain(each, kind) for kind, each in spec.items()})
    return Channel({kind: chain(spec, kind) for kind in KINDS})


def chain(spec: Spec, kind: str) -> tuple[Transform, ...]:
    """Return the transforms of one codec for messages of ``kind``, empty for `fp32`.

    A codec with an attribute ``feedback`` that is True is wrapped in `ErrorFeedback`, except for updates: these get
    theirs from `DifferenceStream`, which has to know the difference's reference.
    """
    codec = build(spec)
    if isinstance(codec, Fp32):
        return ()
    if kind != "updates" and getattr(codec, "feedback", None) is True:
        return (ErrorFeedback(codec),)
    return (codec,)


def build(spec: Spec) -> Transform:
    """Return one codec, by name or by ``{"name": ..., option: value}``; None is `fp32`.

    Raises:
        ConfigError: an unknown codec or option.
    """
    options: dict[str, Any] = dict(spec) if isinstance(spec, Mapping) else {"name": "fp32" if spec is None else spec}
    name = options.pop("name", None)
    if not isinstance(name, str) or (name not in CODECS and ":" not in name):
        raise ConfigError(f"codec expected one of {', '.join(CODECS)}, or 'package.module:Class', got {name!r}")
    target = CODECS[name] if name in CODECS else load_target(name, "codec")
    try:
        codec = target(**options)
    except TypeError as error:
        raise ConfigError(
            f"codec {name!r} does not take the options {', '.join(map(str, options))}: {error}"
        ) from error
    if not isinstance(codec, Transform):
        raise ConfigError(f"codec {name!r} should be a cutlayer.transforms.Transform, got {type(codec).__name__}")
    return codec
