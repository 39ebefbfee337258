"""Errors as answers: ``{"error": sentence, "code": word, "request_id": id}`` with the status that fits."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cutlayer import errors
from cutlayer.services.errors import ServiceError
from cutlayer.services.web.request_id import request_id

log = logging.getLogger(__name__)

RETRY_AFTER = 1.0
"""Seconds after which a request that met an unavailable store may come again."""

LONGEST = 1000
"""Characters of a sentence that are sent: what came may be in it, as long as it was."""

_ANSWERS: tuple[tuple[type[errors.CutlayerError], int, str], ...] = (
    (errors.MissingObject, 404, "missing"),
    (errors.ObjectExists, 409, "exists"),
    (errors.NoSpace, 503, "no_space"),
    (errors.DamagedObject, 503, "damaged"),
    (errors.StoreError, 503, "store"),
    (errors.ServiceError, 503, "unavailable"),
    (errors.WireError, 422, "malformed"),
    (errors.ConfigError, 422, "configuration"),
    (errors.TrainingError, 422, "training"),
    (errors.CutError, 422, "cut"),
    (errors.DataError, 422, "data"),
)
_CODES = {400: "bad_request", 401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method_not_allowed"}


def answer_for(error: Exception) -> Response:
    """Return the answer that ``error`` becomes; 500 with a plain sentence for one that nobody raised on purpose."""
    if isinstance(error, ServiceError):
        return answer(error.status, str(error), error.code, retry_after=error.retry_after, about=error.about)
    if isinstance(error, HTTPException):
        return answer(
            error.status_code, _sentence(error), _CODES.get(error.status_code, "http_error"), headers=error.headers
        )
    for kind, status, code in _ANSWERS:
        if isinstance(error, kind):
            return answer(status, str(error), code, retry_after=RETRY_AFTER if status == 503 else None)
    return answer(500, "something went wrong in the service; its log has this request's id", "internal")


def answer(
    status: int,
    sentence: str,
    code: str,
    *,
    retry_after: float | None = None,
    headers: Mapping[str, str] | None = None,
    about: Mapping[str, Any] | None = None,
) -> Response:
    """Return an error as JSON, with what more there is to say ``about`` it."""
    found = dict(headers or {})
    if retry_after is not None:
        found["Retry-After"] = str(max(1, math.ceil(retry_after)))
    if status == 401:
        found.setdefault("WWW-Authenticate", "Bearer")
    if status == 413:
        found["Connection"] = "close"  # what is left of the body is not read
    said = sentence[:LONGEST].encode(errors="backslashreplace").decode()  # a lone surrogate is text to Python alone
    body = {**(about or {}), "error": said, "code": code, "request_id": request_id()}
    return JSONResponse(body, status_code=status, headers=found)


async def http_exception(request: Request, error: Exception) -> Response:
    """Answer what the router raises: no such path, no such method."""
    return answer_for(error)


class Failures:
    """Turns whatever is raised inside into an answer, and logs with its traceback what nobody raised on purpose."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        except ClientDisconnect:
            log.info("the client went away before its request was complete")
        except Exception as error:
            found = answer_for(error)
            if started:
                log.exception("failed in the middle of an answer")
                raise  # the server closes the connection, so that half an answer is not taken for a whole one
            if found.status_code == 500:
                log.exception("failed unexpectedly")
            elif found.status_code > 500:
                log.warning("unavailable: %s", error)
            await found(scope, receive, send)


def _sentence(error: HTTPException) -> str:
    detail: Any = error.detail
    if error.status_code == 404 and detail == "Not Found":
        return "there is nothing at this path"
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow")
        return f"this path takes {allowed}" if allowed else "this path does not take this method"
    return str(detail)
