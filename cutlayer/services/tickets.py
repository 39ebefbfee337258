"""Tickets: what lets a client use the data plane for one task, checked by any server without asking anyone.

A ticket is a JSON web token signed with the deployment's secret (HMAC with SHA-256, and only that).  It names one
client, one run, one round and one task, and it expires.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from cutlayer.errors import ConfigError
from cutlayer.services.errors import Unauthorized

ALGORITHM = "HS256"
ISSUER = "cutlayer-backend"
AUDIENCE = "cutlayer-data-plane"
SHORTEST_SECRET = 32
"""Bytes: a shorter secret could be guessed from one ticket."""

_LONGEST = 4096
_CLAIMS = ("exp", "iss", "aud", "sub", "run", "round", "client", "task", "kind")


@dataclass(frozen=True, slots=True)
class Ticket:
    """What one task of one client may do.

    ``run`` is the run's id, ``round`` counts from 1 (0 before the first), ``client`` is the client's number in the
    run, ``task`` the task's id, ``kind`` what the task is (``train``, ``evaluate``, ...), ``subject`` the client's id
    in the registry; ``expires`` is in seconds since 1970, set by `issue`.  ``giver`` is the number of the client whose
    parts this one goes on with or is scored with, None where nobody hands it any.
    """

    run: str
    round: int
    client: int
    task: str
    kind: str
    subject: str
    expires: int = 0
    giver: int | None = None


def issue(secret: bytes | str, ticket: Ticket, seconds: float) -> str:
    """Return ``ticket`` signed, valid for ``seconds`` from now.

    Raises ConfigError for a secret that is too short.
    """
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "exp": int(time.time() + seconds),
        "sub": ticket.subject,
        "run": ticket.run,
        "round": ticket.round,
        "client": ticket.client,
        "task": ticket.task,
        "kind": ticket.kind,
    }
    if ticket.giver is not None:
        claims["giver"] = ticket.giver
    return jwt.encode(claims, _key(secret), algorithm=ALGORITHM)


def verify(secret: bytes | str, token: str) -> Ticket:
    """Return the ticket that ``token`` is, if it was signed with ``secret`` and has not expired.

    Raises Unauthorized; ConfigError for a secret that is too short.
    """
    key = _key(secret)
    if len(token) > _LONGEST:
        raise Unauthorized("expected a ticket of a task, and it is too long for one", code="bad_ticket")
    try:
        claims = jwt.decode(
            token, key, algorithms=[ALGORITHM], issuer=ISSUER, audience=AUDIENCE, options={"require": list(_CLAIMS)}
        )
    except jwt.ExpiredSignatureError as error:
        raise Unauthorized("the ticket has expired: ask the backend for the task again", code="expired") from error
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise Unauthorized(
            "expected a ticket that this deployment's backend signed: ask the backend for the task again, and see "
            "that all services have the same secret",
            code="bad_ticket",
        ) from error
    return _ticket(claims)


def _ticket(claims: Mapping[str, Any]) -> Ticket:
    for name in ("run", "task", "kind"):
        if not isinstance(claims[name], str):
            raise Unauthorized(f"the ticket's {name} is not what a ticket says", code="bad_ticket")
    for name in ("round", "client", "exp", *(("giver",) if "giver" in claims else ())):
        if type(claims[name]) is not int or claims[name] < 0:
            raise Unauthorized(f"the ticket's {name} is not what a ticket says", code="bad_ticket")
    return Ticket(
        claims["run"],
        claims["round"],
        claims["client"],
        claims["task"],
        claims["kind"],
        claims["sub"],
        claims["exp"],
        claims.get("giver"),
    )


def _key(secret: bytes | str) -> bytes:
    key = secret.encode() if isinstance(secret, str) else secret
    if len(key) < SHORTEST_SECRET:
        raise ConfigError(
            f"the secret that signs tickets must have at least {SHORTEST_SECRET} bytes, and it has {len(key)}: make "
            "one with python -c 'import secrets; print(secrets.token_urlsafe(48))'"
        )
    return key
