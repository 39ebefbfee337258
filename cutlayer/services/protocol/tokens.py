"""Tokens: made, shown once, listed."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cutlayer.services.protocol.forms import Name, Reply, Request
from cutlayer.services.protocol.words import GivenRole, Role


class MakeToken(Request):
    """A token for a role; it ends after ``seconds``, or never."""

    role: GivenRole
    name: Name
    seconds: Annotated[float, Field(gt=0, le=10 * 365 * 86400, allow_inf_nan=False, strict=True)] | None = None


class TokenMade(Reply):
    """A token, shown now and never again."""

    id: str
    role: GivenRole
    name: str
    token: str


class TokenView(Reply):
    """A token without what makes it one."""

    id: str
    role: Role
    name: str
    created: float
    expires: float | None = None
