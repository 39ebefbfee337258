"""What crosses the control plane is made of these: values that every database keeps, requests, replies."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

NAME = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$"
DEPTH = 24
LONGEST_TEXT = 50_000
"""Characters of an experiment as text."""
WIDEST = 2**63


def _text(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain the character NUL")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("must be text that UTF-8 can encode") from None
    return value


def _plain(value: Any, depth: int = 0) -> Any:
    """Return ``value`` if it is JSON that every database keeps: finite, not too deep, integers of 64 bits."""
    if depth > DEPTH:
        raise ValueError(f"must not be nested deeper than {DEPTH} levels")
    if isinstance(value, str):
        _text(value)
    elif isinstance(value, bool) or value is None:
        pass
    elif isinstance(value, int):
        if not -WIDEST <= value < WIDEST:
            raise ValueError("must not contain integers of more than 64 bits")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("must contain finite numbers only")
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError("must have text for keys")
            _text(key)
            _plain(inner, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            _plain(inner, depth + 1)
    else:
        raise ValueError(f"must be JSON, not {type(value).__name__}")
    return value


Json = Annotated[dict[str, Any], AfterValidator(_plain)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_text)]
Sentence = Annotated[str, StringConstraints(max_length=4000), AfterValidator(_text)]
Name = Annotated[str, StringConstraints(pattern=NAME, max_length=100)]
Count = Annotated[int, Field(ge=0, lt=2**53, strict=True)]
Number = Annotated[float, Field(ge=-1e290, le=1e290, allow_inf_nan=False, strict=True)]
"""Bounded, so that the sums over all clients are finite too."""
Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Labels = Annotated[dict[Text, Text], Field(max_length=100)]


class Request(BaseModel):
    """Comes from outside: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Reply(BaseModel):
    """Goes out: a reader ignores what it does not know."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ErrorReply(Reply):
    """Every answer that is not a success: a sentence for people, a word for programs, and the request's id."""

    error: str
    code: str
    request_id: str | None = None
