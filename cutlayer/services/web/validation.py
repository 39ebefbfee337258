"""What FastAPI says about a request that does not fit, in the form of all other errors."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import Response

from cutlayer.services.web.failures import answer


def explain_validation(app: FastAPI) -> None:
    """Answer 422 with one sentence that names the field, what was expected, and never what came: it may be a secret."""
    app.add_exception_handler(RequestValidationError, _invalid)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    first = found[0] if found else {"loc": (), "msg": "the request does not fit"}
    place, *names = (str(part) for part in first["loc"] or ("request",))
    where = ".".join(names) or place
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    message = str(first["msg"]).removeprefix("Value error, ")
    return answer(422, f"{where}: {message[:1].lower()}{message[1:]}{more}", "invalid")
