"""Who may call a route, and the parameters that many routes have."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from cutlayer.services.backend import clients, tokens
from cutlayer.services.backend.state import State, state_of
from cutlayer.services.backend.tokens import Who
from cutlayer.services.errors import Forbidden, Unauthorized
from cutlayer.services.protocol import ErrorReply, Role
from cutlayer.services.web import bearer, recognise

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": what}
    for status, what in {
        400: "not HTTP as it should be",
        401: "no token, or one that is not valid",
        403: "a token of a role that may not do this",
        404: "what the path names is not there, or not the caller's",
        409: "taken, or not possible in this state",
        413: "the body is too large",
        422: "understood, and wrong",
        429: "too many requests",
        503: "the database does not answer; come back after Retry-After seconds",
    }.items()
}

_scheme = HTTPBearer(auto_error=False, description="a token: cl_op_…, cl_view_…, cl_svc_…, cl_enrol_… or cl_key_…")

Backend = Annotated[State, Depends(state_of)]
RunId = Annotated[str, Path(pattern=r"^[A-Za-z0-9._-]{1,140}$")]
RoundNumber = Annotated[int, Path(ge=1, lt=2**31)]
Limit = Annotated[int, Query(ge=1, le=500)]
After = Annotated[int, Query(ge=0, lt=2**63)]


def allow(*roles: Role, operator: bool = True) -> Callable[..., Coroutine[Any, Any, Who]]:
    """Return a dependency that gives who calls, if it has one of these roles; an operator may do everything but work.

    Raises Unauthorized and Forbidden.
    """
    allowed = {*roles, "operator"} if operator else set(roles)

    async def caller(
        request: Request,
        state: Backend,
        _: Annotated[HTTPAuthorizationCredentials | None, Security(_scheme)] = None,
    ) -> Who:
        token = bearer(request)
        async with state.database.read() as session:
            who = await tokens.find(session, token, state.database.clock())
        if who is None:
            raise Unauthorized("this token is not known here, was revoked, or has expired", code="bad_token")
        recognise(request.scope, f"{who.role}:{who.name}")
        if who.role not in allowed:
            raise Forbidden(
                f"this takes a token of the role {' or '.join(sorted(allowed))}, and this one's is {who.role}",
                code="wrong_role",
            )
        if who.client is not None:
            await clients.seen(state.database, who)
        return who

    return caller


Operator = Annotated[Who, Depends(allow())]
Reader = Annotated[Who, Depends(allow("viewer", "service"))]
Worker = Annotated[Who, Depends(allow("service", "client", operator=False))]
