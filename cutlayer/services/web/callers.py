"""Who is calling: what the application found out from the token, for the access log and the rate limit."""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.types import Scope

from cutlayer.services.errors import Unauthorized

_KEY = "cutlayer.caller"


def bearer(connection: HTTPConnection) -> str:
    """Return the token or ticket in ``Authorization: Bearer ...``.

    Raises Unauthorized when there is none.
    """
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Unauthorized("expected a token as 'Authorization: Bearer ...'", code="no_token")
    return token


def recognise(scope: Scope, name: str) -> None:
    """Say that the caller showed a valid token or ticket; ``name`` is like ``client:<id>``, ``service:split``.

    Call it as soon as a token is verified, with ``request.scope``.
    """
    # Routers hand copies of the scope to routes; the dict in it is the same in all of them.
    scope.setdefault(_KEY, {})["name"] = name


def caller(scope: Scope) -> str | None:
    """Return what `recognise` was told about this request."""
    name: str | None = scope.get(_KEY, {}).get("name")
    return name


def prepare(scope: Scope) -> None:
    """Make the place that `recognise` writes to, outside of any router."""
    scope.setdefault(_KEY, {})
