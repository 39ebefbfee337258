"""Tokens: made at random, kept as SHA-256 only, found by their hash."""

from __future__ import annotations

import hashlib
import logging
import secrets
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from cutlayer.errors import ConfigError
from cutlayer.services.backend.database import Database, Unit
from cutlayer.services.backend.tables import ClientRow, TokenRow
from cutlayer.services.protocol import PREFIXES, Role
from cutlayer.services.secrets import read_secret, write_secret
from cutlayer.services.settings import BackendSettings

log = logging.getLogger(__name__)

LONGEST = 200


@dataclass(frozen=True, slots=True)
class Who:
    """Who makes a request: the token's id, role and name; for a client its id, and when it was last seen (if here)."""

    token: str
    role: Role
    name: str
    client: str | None = None
    last_seen: float | None = None


def make(role: Role) -> str:
    """Return a new token: the role's prefix and 32 random bytes."""
    return PREFIXES[role] + secrets.token_urlsafe(32)


def hashed(token: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def add(
    unit: Unit, role: Role, name: str, token: str, *, client: str | None = None, seconds: float | None = None
) -> TokenRow:
    """Record a token, which is valid from the end of the transaction on."""
    row = TokenRow(
        id=str(uuid4()),
        hash=hashed(token),
        role=role,
        name=name,
        client=client,
        created=unit.now,
        expires=None if seconds is None else unit.now + seconds,
    )
    unit.session.add(row)
    return row


async def find(session: AsyncSession, token: str, now: float) -> Who | None:
    """Return who has this token, None if nobody has it (any more)."""
    if len(token) > LONGEST:
        return None
    found = (
        select(TokenRow, ClientRow.connected, ClientRow.last_seen)
        .outerjoin(ClientRow, ClientRow.id == TokenRow.client)
        .where(TokenRow.hash == hashed(token))
    )
    one = (await session.execute(found)).one_or_none()
    if one is None:
        return None
    row, connected, last_seen = one
    if row.revoked is not None or (row.expires is not None and row.expires <= now):
        return None
    return Who(row.id, row.role, row.name, row.client, last_seen if connected else None)  # type: ignore[arg-type]


def operator_file(settings: BackendSettings) -> Path:
    """Where the backend puts the operator token that it makes at its first start."""
    return settings.folder / "tokens" / "operator"


async def prepare(database: Database, settings: BackendSettings) -> None:
    """Record the tokens that the settings give; without any operator token ever, make one and put it into a file.

    Raises ConfigError for a token that has another role's prefix, or a file that cannot be written.
    """
    given = settings.first_tokens()
    async with database.read() as session:
        has_operator = await session.scalar(select(func.count()).where(TokenRow.role == "operator"))
    if not has_operator and "operator" not in given:
        path = operator_file(settings)
        if write_secret(path, make("operator")):
            log.info("the first operator token is in %s", path)
        given["operator"] = read_secret(path, "the first operator token")
    for role, token in given.items():
        await _record(database, role, token)  # type: ignore[arg-type]


async def _record(database: Database, role: Role, token: str) -> None:
    prefix = PREFIXES[role]
    if not token.startswith(prefix) or not 40 <= len(token) <= LONGEST:
        raise ConfigError(
            f"the first {role} token must be {prefix} and at least {40 - len(prefix)} random characters: make one with "
            f"python -c 'import secrets; print(\"{prefix}\" + secrets.token_urlsafe(32))'"
        )
    async with database.read() as session:
        known = await session.scalar(select(func.count()).where(TokenRow.hash == hashed(token)))
    if known:
        return
    try:
        async with database.write() as unit:
            add(unit, role, "first", token)
            unit.tell("audit", {"act": "token.first", "role": role, "by": "settings"})
    except IntegrityError:
        log.debug("another backend has recorded the first %s token", role)
