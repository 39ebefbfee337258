"""Every request has an id: the caller's if it is a sane one, else a new one; it is returned, and in every log line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cutlayer.services import logs

HEADER = "X-Request-ID"
_SANE = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_current: ContextVar[str | None] = ContextVar("request_id", default=None)


def request_id() -> str | None:
    """Return the id of the request that is being answered here, to be sent along to other services."""
    return _current.get()


@contextmanager
def named(request: str) -> Iterator[None]:
    """Say that the request with this id is answered here."""
    token = _current.set(request)
    try:
        with logs.about(request=request):
            yield
    finally:
        _current.reset(token)


class RequestId:
    """Gives requests their ids; ``scope["cutlayer.request_id"]`` holds it too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        came = Headers(scope=scope).get(HEADER, "")
        found = came if _SANE.fullmatch(came) else uuid4().hex
        scope["cutlayer.request_id"] = found

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = found
            await send(message)

        with named(found):
            await self.app(scope, receive, send_with_id)
