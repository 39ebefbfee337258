"""Tokens: made and revoked by operators."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter
from sqlalchemy import select

from cutlayer.services.backend import runs, tokens
from cutlayer.services.backend.api.shared import Backend, Operator
from cutlayer.services.backend.tables import TokenRow
from cutlayer.services.errors import Conflict, NotFound
from cutlayer.services.protocol import Accepted, MakeToken, TokenMade, TokenView

routes = APIRouter(prefix="/tokens", tags=["tokens"])


@routes.post("", status_code=201)
async def make(request: MakeToken, who: Operator, state: Backend) -> TokenMade:
    """Make a token; it is shown now and never again."""
    token = tokens.make(request.role)
    async with state.database.write() as unit:
        row = tokens.add(unit, request.role, request.name, token, seconds=request.seconds)
        runs.note(unit, who, "token.make", id=row.id, made=request.role, name=request.name)
    return TokenMade(id=row.id, role=request.role, name=request.name, token=token)


@routes.get("")
async def listed(who: Operator, state: Backend) -> list[TokenView]:
    """List the tokens that are valid, without what makes them so."""
    now = state.database.clock()
    valid = (TokenRow.revoked.is_(None), TokenRow.expires.is_(None) | (TokenRow.expires > now))
    async with state.database.read() as session:
        rows = (await session.execute(select(TokenRow).where(*valid).order_by(TokenRow.created, TokenRow.id))).scalars()
        return [
            TokenView(id=row.id, role=row.role, name=row.name, created=row.created, expires=row.expires) for row in rows
        ]


@routes.delete("/{id}")
async def revoke(id: UUID, who: Operator, state: Backend) -> Accepted:
    """Revoke a token, at once and for good; the last operator token stays."""
    async with state.database.write() as unit:
        lasting = (TokenRow.role == "operator", TokenRow.revoked.is_(None), TokenRow.expires.is_(None))
        operators = select(TokenRow.id).where(*lasting).order_by(TokenRow.id)
        if not state.database.sqlite:
            operators = operators.with_for_update()
        left = (await unit.session.execute(operators)).scalars().all()
        row = await state.database.lock(unit, select(TokenRow).where(TokenRow.id == str(id)))
        if row is None:
            raise NotFound(f"there is no token {id}")
        if row.revoked is not None:
            return Accepted()
        if list(left) == [row.id]:
            raise Conflict("this is the last operator token that does not expire: make another one first", code="last")
        row.revoked = unit.now
        runs.note(unit, who, "token.revoke", id=row.id, revoked=row.role, name=row.name)
    return Accepted()
