"""Bodies and paths have an end: what is announced above the limit is not read, what is not announced is counted."""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cutlayer.services.errors import NotFound, TooLarge, Unprocessable

LONGEST_PATH = 2000
"""Characters: routes take numbers out of a path, and a number of thousands of digits is none that Python reads."""


class BodyLimit:
    """Refuses bodies above ``limit`` bytes; nothing is buffered here.

    Args:
        app: what is protected.
        limit: bytes.
        special: (regular expression, bytes) for paths with a limit of their own; the first that matches the whole
            path counts.
    """

    def __init__(self, app: ASGIApp, limit: int, special: Sequence[tuple[str, int]] = ()) -> None:
        self.app = app
        self.limit = limit
        self.special = [(re.compile(pattern), each) for pattern, each in special]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if len(scope["path"]) > LONGEST_PATH:
            raise NotFound("there is nothing at a path as long as this")
        limit = next((each for pattern, each in self.special if pattern.fullmatch(scope["path"])), self.limit)
        announced = _length(Headers(scope=scope).get("content-length"))
        if announced is not None and announced > limit:
            raise _too_large(limit)
        read = 0
        excess = False
        started = False

        async def counted() -> Message:
            nonlocal read, excess
            message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > limit:
                    excess = True
                    raise _too_large(limit)
            return message

        async def send_unless_refused(message: Message) -> None:
            nonlocal started
            if excess and not started:
                return  # frameworks make 400 of whatever is raised while they read; the truth is raised below
            started = True
            await send(message)

        try:
            await self.app(scope, counted, send_unless_refused)
        finally:
            if excess and not started:
                raise _too_large(limit)


def _length(value: str | None) -> int | None:
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 20):
        raise Unprocessable("expected a number of bytes as Content-Length")
    return int(value)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body of this request may have at most {limit} bytes")
